//! The lab's initramfs: busybox, the init script and the kernel modules.

use std::io::{self, Write};
use std::path::Path;

use super::modules::Module;
use crate::archive::Archive;

/// The init script; part of what a cached image is made from.
pub const INIT: &str = include_str!("init.sh");

/// Writes an initramfs (cpio newc, not compressed: the emulated CPU would pay for that).
pub fn write(to: impl Write, busybox: &[u8], modules: &[Module]) -> io::Result<()> {
    // Nobody asks for the files' times.
    let mut archive = Archive::new(to, 0);
    archive.directory(Path::new("dev"))?;
    archive.file(Path::new("bin/busybox"), 0o755, busybox)?;
    archive.file(Path::new("init"), 0o755, INIT.as_bytes())?;
    let mut order = String::new();
    for module in modules {
        let path = format!("lib/modules/{}.ko", module.name);
        archive.file(Path::new(&path), 0o644, &module.image)?;
        order.push_str(&module.name);
        order.push_str(".ko\n");
    }
    archive.file(Path::new("lib/modules/order"), 0o644, order.as_bytes())?;
    archive.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use cpio::newc;

    #[test]
    fn modules_are_listed_in_load_order() {
        let modules = ["netfs", "9p"].map(|name| Module {
            name: name.to_owned(),
            image: name.as_bytes().to_vec(),
        });
        let mut image = Vec::new();
        write(&mut image, b"busybox", &modules).expect("writes to memory");

        let mut rest = image.as_slice();
        let mut order = None;
        loop {
            let mut reader = newc::Reader::new(rest).expect("a well-formed archive");
            if reader.entry().is_trailer() {
                break;
            }
            if reader.entry().name() == "lib/modules/order" {
                let mut text = String::new();
                io::Read::read_to_string(&mut reader, &mut text).expect("text");
                order = Some(text);
            }
            rest = reader.finish().expect("the next entry");
        }
        assert_eq!(order.as_deref(), Some("netfs.ko\n9p.ko\n"));
    }
}
