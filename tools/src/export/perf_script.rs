//! The text of `perf script`: a record a sample, so that scripts that count records get the counts right.
//!
//! Sessions hold no times: records have the times 0 s, 1 µs, 2 µs, … in the order of the file.

use std::io::{self, Write};

use super::model::Profile;

/// Writes the profile. The caller bounds its total, since a file has a record for each sample.
pub fn write(profile: &Profile, out: &mut dyn Write) -> io::Result<()> {
    let mut micros = 0_u64;
    for sample in &profile.samples {
        let (Some(labels), Some(event)) = (profile.labels(sample), profile.event(sample)) else {
            continue;
        };
        // Readers take everything up to the number for the name: no blanks in it.
        let program = labels.program_name().replace(' ', "_");
        let tgid = number(labels.tgid.as_deref());
        let tid = labels.tid.as_deref().map_or(tgid, |tid| number(Some(tid)));
        let vcpu = number(labels.vcpu.as_deref());
        let event = event.name.replace([' ', ':'], "_");
        let mut stack = String::new();
        for frame in profile.stack(sample).rev() {
            // Readers take the last parentheses for the image's: it must have none itself, as anonymous regions do.
            let image = profile.image(frame).map_or_else(
                || "[unknown]".to_owned(),
                |image| image.path.replace('(', "[").replace(')', "]"),
            );
            stack.push_str(&format!(
                "\t{:>16x} {}+0x0 ({image})\n",
                frame.address, frame.function
            ));
        }
        for _ in 0..sample.count {
            writeln!(
                out,
                "{program} {tgid}/{tid} [{vcpu:03}] {}.{:06}:          1 {event}: ",
                micros / 1_000_000,
                micros % 1_000_000
            )?;
            out.write_all(stack.as_bytes())?;
            out.write_all(b"\n")?;
            micros = micros.saturating_add(1);
        }
    }
    Ok(())
}

/// 0 stands for what the session does not tell apart: the format has no word for that.
fn number(label: Option<&str>) -> u32 {
    label.and_then(|text| text.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::super::model::tests::example;
    use super::*;

    #[test]
    fn there_is_a_record_for_each_sample_innermost_frame_first() {
        let mut text = Vec::new();
        write(&example(), &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        let records: Vec<&str> = text.split_terminator("\n\n").collect();
        assert_eq!(records.len(), 1000);
        assert!(
            records.contains(&concat!(
                "calc 12/12 [000] 0.000100:          1 TIMER: \n",
                "\t            1200 std::vector<int; 3>::at(\"&\")+0x0 (/srv/calc)\n",
                "\t            1100 main+0x0 (/srv/calc)"
            )),
            "{}",
            records[100]
        );
    }
}
