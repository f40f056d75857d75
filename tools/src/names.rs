//! Names as they are shown.

use std::fmt::Write as _;

use std::os::unix::ffi::OsStrExt as _;

use oprofile_session::sample_path::ImageName;

use crate::profile::{ImageId, Selection};

/// Bytes of a name as text that is safe to print: what is not UTF-8 and what controls a terminal is shown as `\xNN`.
pub fn printable(name: &[u8]) -> String {
    let mut text = String::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        for character in chunk.valid().chars() {
            if is_unsafe(character) {
                let mut bytes = [0; 4];
                escape(&mut text, character.encode_utf8(&mut bytes).as_bytes());
            } else {
                text.push(character);
            }
        }
        escape(&mut text, chunk.invalid());
    }
    text
}

/// Control characters, and those that change the direction of the text around them.
fn is_unsafe(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn escape(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        // Infallible for a String.
        let _ = write!(text, "\\x{byte:02x}");
    }
}

/// The full name of an image, as recorded.
pub fn long_name(image: &ImageName) -> Vec<u8> {
    match image {
        ImageName::Root(path) => path.clone(),
        ImageName::Kern(name) => [b"/", &name[..]].concat(),
        ImageName::Anon { name, range } => [
            name,
            &b" (tgid:"[..],
            &range.tgid,
            b" range:",
            &range.start,
            b"-",
            &range.end,
            b")",
        ]
        .concat(),
    }
}

/// The name of an image without its directory.
pub fn short_name(image: &ImageName) -> Vec<u8> {
    match image {
        ImageName::Root(name) | ImageName::Kern(name) => name
            .rsplit(|byte| *byte == b'/')
            .next()
            .unwrap_or_default()
            .to_vec(),
        ImageName::Anon { .. } => long_name(image),
    }
}

/// The name that rows are ordered by: the path found if paths are shown, else the name without its directory.
pub fn sort_name(selection: &Selection, image: ImageId, long: bool) -> Vec<u8> {
    if long {
        selection.path(image).as_os_str().as_bytes().to_vec()
    } else {
        selection.images[image].short_name()
    }
}

/// The name of an image in a column: the path found or recorded, or its last component. Anonymous regions have no path.
pub fn shown_name(selection: &Selection, image: ImageId, long: bool) -> String {
    let name = &selection.images[image].name;
    if matches!(name, ImageName::Anon { .. }) {
        return printable(&long_name(name));
    }
    let path = selection.path(image);
    let path = if long {
        path.as_os_str()
    } else {
        path.file_name().unwrap_or_default()
    };
    printable(path.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_control_the_terminal() {
        assert_eq!(
            printable(b"a\x1b[31m\n\xff\x7f"),
            "a\\x1b[31m\\x0a\\xff\\x7f"
        );
        assert_eq!(
            printable("日本 \u{202e}x\u{9b}".as_bytes()),
            "日本 \\xe2\\x80\\xaex\\xc2\\x9b"
        );
    }

    #[test]
    fn images_are_shown_as_oprofile_shows_them() {
        let anon = ImageName::anon(b"[heap]", 12, 0x1000, 0x2000);
        assert_eq!(short_name(&anon), b"[heap] (tgid:12 range:0x1000-0x1fff)");
        assert_eq!(short_name(&ImageName::Root(b"/srv/a/b".to_vec())), b"b");
        assert_eq!(long_name(&ImageName::Kern(b"ext4".to_vec())), b"/ext4");
        assert_eq!(short_name(&ImageName::Kern(b"ext4".to_vec())), b"ext4");
    }
}
