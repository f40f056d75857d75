//! A flame graph as one static SVG: no script, no font, no other file. Each box has its numbers as a tooltip (`<title>`).
//!
//! Our own drawing: the crate that everybody uses for this, inferno, is under the CDDL.

use std::collections::BTreeMap;
use std::io::{self, Write};

use super::folded;
use super::model::Profile;

/// Width of the drawing, pixels.
const WIDTH: f64 = 1200.0;
/// Space around the boxes.
const MARGIN: f64 = 10.0;
/// Height of a row.
const ROW: f64 = 17.0;
/// Height above the boxes, for the heading.
const HEADER: f64 = 44.0;
/// Height below the boxes, for the remark.
const FOOTER: f64 = 26.0;
/// Boxes narrower than this are not drawn: nobody sees them, and there may be millions.
const MIN_WIDTH: f64 = 0.1;
/// Width of a character of the 12 px monospace font, rounded up.
const CHARACTER: f64 = 7.3;
/// Boxes narrower than three characters have no text.
const MIN_TEXT: usize = 3;

/// A box: a frame below one certain stack.
#[derive(Debug, Default)]
struct Node {
    /// Samples here and above.
    total: u64,
    children: BTreeMap<String, Node>,
}

/// Totals of what was drawn.
#[derive(Debug, Default)]
struct Drawn {
    boxes: String,
    deepest: usize,
    /// Boxes that are too narrow; what is on top of them is not counted.
    hidden: u64,
}

/// Writes the profile.
pub fn write(profile: &Profile, title: &str, out: &mut dyn Write) -> io::Result<()> {
    let mut root = Node::default();
    for (stack, count) in folded::stacks(profile) {
        root.total = root.total.saturating_add(count);
        let mut node = &mut root;
        for frame in stack {
            node = node.children.entry(frame).or_default();
            node.total = node.total.saturating_add(count);
        }
    }
    let mut drawn = Drawn::default();
    layout(&root, &mut drawn);
    let height = HEADER + rows(drawn.deepest + 1) + FOOTER;
    writeln!(
        out,
        "<?xml version=\"1.0\" encoding=\"UTF-8\" standalone=\"no\"?>\n\
         <svg xmlns=\"http://www.w3.org/2000/svg\" version=\"1.1\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\">\n\
         <style>text{{font:12px monospace;fill:#111}}rect{{stroke:#fff;stroke-width:.5}}g:hover rect{{stroke:#000}}</style>\n\
         <rect x=\"0\" y=\"0\" width=\"{WIDTH}\" height=\"{height}\" fill=\"#f8f8f8\"/>\n\
         <text x=\"{MARGIN}\" y=\"20\" style=\"font-size:16px\">{}</text>\n\
         <text x=\"{MARGIN}\" y=\"38\">{} samples; callers above callees, sorted by name</text>",
        escaped(title),
        root.total,
    )?;
    out.write_all(drawn.boxes.as_bytes())?;
    if drawn.hidden > 0 {
        writeln!(
            out,
            "<text x=\"{MARGIN}\" y=\"{}\">{} boxes narrower than {MIN_WIDTH} px are not drawn.</text>",
            height - 9.0,
            drawn.hidden
        )?;
    }
    writeln!(out, "</svg>")
}

/// Draws all boxes. Not recursive: the stacks' depth is not ours.
fn layout(root: &Node, drawn: &mut Drawn) {
    let whole = root.total;
    let mut open = vec![("all", root, 0_usize, 0_u64)];
    while let Some((name, node, depth, start)) = open.pop() {
        let width = pixels(node.total, whole);
        if width < MIN_WIDTH {
            drawn.hidden += 1;
            continue;
        }
        drawn.deepest = drawn.deepest.max(depth);
        drawn.boxes.push_str(&shape(
            name,
            node.total,
            whole,
            MARGIN + pixels(start, whole),
            HEADER + rows(depth),
        ));
        let mut start = start;
        for (name, child) in &node.children {
            open.push((name.as_str(), child, depth + 1, start));
            start = start.saturating_add(child.total);
        }
    }
}

fn shape(name: &str, total: u64, whole: u64, x: f64, y: f64) -> String {
    let width = pixels(total, whole);
    // Fits a usize: the drawing is 1,200 pixels wide.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let fits = ((width - 4.0).max(0.0) / CHARACTER) as usize;
    let text = if fits < MIN_TEXT {
        String::new()
    } else if name.chars().count() <= fits {
        escaped(name)
    } else {
        let cut: String = name.chars().take(fits - 2).collect();
        escaped(&format!("{cut}.."))
    };
    let label = if text.is_empty() {
        String::new()
    } else {
        format!(
            "<text x=\"{:.2}\" y=\"{:.2}\">{text}</text>",
            x + 2.0,
            y + 12.5
        )
    };
    format!(
        "<g><title>{} ({total} samples, {:.2} %)</title><rect x=\"{x:.2}\" y=\"{y:.2}\" width=\"{width:.2}\" height=\"{:.2}\" fill=\"{}\"/>{label}</g>\n",
        escaped(name),
        ratio(total, whole) * 100.0,
        ROW - 1.0,
        colour(name),
    )
}

fn rows(number: usize) -> f64 {
    // Exact: no stack has 2⁵³ frames.
    #[expect(clippy::cast_precision_loss)]
    let number = number as f64;
    number * ROW
}

fn pixels(count: u64, whole: u64) -> f64 {
    ratio(count, whole) * (WIDTH - 2.0 * MARGIN)
}

fn ratio(count: u64, whole: u64) -> f64 {
    // Rounding is far below a pixel.
    #[expect(clippy::cast_precision_loss)]
    let (count, whole) = (count as f64, whole as f64);
    if whole > 0.0 { count / whole } else { 0.0 }
}

/// A warm colour that depends on the name alone, so that two graphs can be compared.
fn colour(name: &str) -> String {
    // FNV-1a.
    let hash = name.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    let (red, green, blue) = (
        205 + (hash >> 16) % 50,
        80 + (hash >> 8) % 140,
        30 + hash % 50,
    );
    format!("rgb({red},{green},{blue})")
}

/// Text as XML; the model's text holds no characters that XML forbids, but for U+FFFE and U+FFFF.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\u{fffe}' | '\u{ffff}' => escaped.push('\u{fffd}'),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::super::model::{Builder, tests::example};
    use super::*;

    fn drawn(profile: &Profile) -> String {
        let mut text = Vec::new();
        write(profile, "a <test>", &mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn boxes_of_a_row_fill_the_width_of_what_is_below_them() {
        let svg = drawn(&example());
        assert!(svg.contains("<title>all (1000 samples, 100.00 %)</title><rect x=\"10.00\" y=\"44.00\" width=\"1180.00\""), "{svg}");
        assert!(svg.contains("<title>calc (950 samples, 95.00 %)</title><rect x=\"10.00\" y=\"61.00\" width=\"1121.00\""), "{svg}");
        assert!(svg.contains("<title>vmlinux (50 samples, 5.00 %)</title><rect x=\"1131.00\" y=\"61.00\" width=\"59.00\""), "{svg}");
    }

    #[test]
    fn names_are_xml() {
        let svg = drawn(&example());
        assert!(svg.contains("a &lt;test&gt;"));
        assert!(svg.contains("std::vector&lt;int; 3&gt;::at(&quot;&amp;&quot;)"));
        assert_eq!(escaped("\u{ffff}"), "\u{fffd}");
    }

    #[test]
    fn narrow_boxes_are_counted_not_drawn() {
        let mut profile = example();
        profile.samples[0].count = 1 << 40;
        let svg = drawn(&profile);
        assert!(svg.contains("boxes narrower than 0.1 px are not drawn"));
        assert!(!svg.contains("do idle"));
    }

    #[test]
    fn empty_profile_is_an_empty_drawing() {
        assert!(drawn(&Builder::default().build()).ends_with("</svg>\n"));
    }
}
