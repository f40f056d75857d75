//! Folded stacks: a line a stack, `outermost;…;innermost count`, as flame graph scripts read and sort them.

use std::collections::BTreeMap;
use std::io::{self, Write};

use super::model::{Frame, Image, Profile};

/// A stack as text, outermost first: the labels, then the functions with their images where those differ from the program.
pub(super) fn stacks(profile: &Profile) -> BTreeMap<Vec<String>, u64> {
    let many_events = profile.events.len() > 1;
    let mut stacks: BTreeMap<Vec<String>, u64> = BTreeMap::new();
    for sample in &profile.samples {
        let mut stack = Vec::new();
        if many_events && let Some(event) = profile.event(sample) {
            stack.push(event.title());
        }
        let labels = profile.labels(sample);
        if let Some(labels) = labels {
            stack.extend(labels.as_frames());
        }
        let program = labels.map(|labels| labels.program.as_str());
        stack.extend(
            profile
                .stack(sample)
                .map(|frame| match profile.image(frame) {
                    Some(image)
                        if Some(image.path.as_str()) != program && !stands_for(frame, image) =>
                    {
                        format!("{} [{}]", frame.function, image.name)
                    }
                    _ => frame.function.clone(),
                }),
        );
        let count = stacks.entry(stack).or_default();
        *count = count.saturating_add(sample.count);
    }
    stacks
}

/// Whether the frame is the image as a whole: what lies outside all functions.
fn stands_for(frame: &Frame, image: &Image) -> bool {
    let name = frame.function.strip_prefix('[');
    name.and_then(|name| name.strip_suffix(']')) == Some(&image.name)
}

/// Writes the profile.
pub fn write(profile: &Profile, out: &mut dyn Write) -> io::Result<()> {
    for (stack, count) in stacks(profile) {
        for (index, frame) in stack.iter().enumerate() {
            if index > 0 {
                out.write_all(b";")?;
            }
            // The separator cannot be escaped in this format.
            out.write_all(frame.replace(';', ":").as_bytes())?;
        }
        writeln!(out, " {count}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::model::tests::example;
    use super::*;

    #[test]
    fn separator_in_a_name_does_not_divide_it_and_counts_add_up() {
        let mut text = Vec::new();
        write(&example(), &mut text).unwrap();
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "calc;process 12;vCPU 0;main 100\n\
             calc;process 12;vCPU 0;main;std::vector<int: 3>::at(\"&\") 600\n\
             calc;process 12;vCPU 1;main;std::vector<int: 3>::at(\"&\") 250\n\
             vmlinux;vCPU 1;do idle 50\n"
        );
    }
}
