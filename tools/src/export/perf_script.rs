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
            let image = profile
                .image(frame)
                .map_or_else(|| "[unknown]".to_owned(), |image| mapping(&image.path));
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

/// An image as perf names what is mapped: `//anon` for anonymous memory, `[heap]` and the like for other regions without a
/// file. The frame's name says which region it is.
///
/// Readers (speedscope, the Firefox Profiler, stackcollapse-perf) look for `ADDRESS NAME (MAPPING)` with a mapping without
/// blanks, and take the last such parentheses. perf writes paths as they are, and its lines with blanks in them are dropped.
fn mapping(path: &str) -> String {
    let name = match path.split_once(" (tgid:") {
        Some(("anon", _)) => "//anon",
        Some((region, _)) if !path.starts_with('/') => region,
        _ => path,
    };
    let readable = |character: char| match character {
        '(' => '[',
        ')' => ']',
        blank if blank.is_whitespace() => '_',
        other => other,
    };
    name.chars().map(readable).collect()
}

/// 0 stands for what the session does not tell apart: the format has no word for that.
fn number(label: Option<&str>) -> u32 {
    label.and_then(|text| text.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::super::model::tests::{example, frame, image};
    use super::super::model::{Builder, Event, Labels};
    use super::*;

    /// Address, name and mapping as speedscope takes them from a line: `/^\s*(\w+)\s*(.+) \((\S*)\)/`.
    fn taken(line: &str) -> Option<(&str, &str, &str)> {
        let (address, rest) = line.trim_start().split_once(' ')?;
        let (name, mapping) = rest.rmatch_indices(" (").find_map(|(at, _)| {
            let mapping = rest[at + 2..].split(char::is_whitespace).next()?;
            Some((&rest[..at], &mapping[..mapping.rfind(')')?]))
        })?;
        Some((address, name.strip_suffix("+0x0")?, mapping))
    }

    #[test]
    fn readers_find_the_name_of_each_frame_whatever_its_image() {
        let images = [
            ("anon (tgid:6 range:0x7e000-0x7efff)", "//anon"),
            ("[heap] (tgid:6 range:0x1000-0x1fff)", "[heap]"),
            ("/srv/my app (old)", "/srv/my_app_[old]"),
            ("/srv/a (tgid:1", "/srv/a_[tgid:1"),
            ("/srv/calc", "/srv/calc"),
        ];
        for (path, wanted) in images {
            let mut builder = Builder::default();
            let event = Event {
                name: "TIMER".to_owned(),
                period: "0".to_owned(),
                unit_mask: "0".to_owned(),
            };
            let event = builder.event(event).unwrap();
            let index = builder.image(image(path)).unwrap();
            let name = format!("[{path}]");
            let leaf = builder.frame(frame(&name, index, 0x12)).unwrap();
            let labels = builder.labels(Labels::default()).unwrap();
            builder.add(labels, event, vec![leaf], 1);
            let mut text = Vec::new();
            write(&builder.build(), &mut text).unwrap();
            let text = String::from_utf8(text).unwrap();
            let line = text.lines().nth(1).unwrap();
            assert_eq!(taken(line), Some(("12", &*name, wanted)), "{line}");
        }
    }

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
