//! The lab's initramfs: busybox, the init script and the kernel modules.

use std::io::{self, Write};

use cpio::newc::{self, ModeFileType};

use super::modules::Module;

/// The init script; part of what a cached image is made from.
pub const INIT: &str = include_str!("init.sh");

/// Writes an initramfs (cpio newc, not compressed: the emulated CPU would pay for that).
pub fn write(mut to: impl Write, busybox: &[u8], modules: &[Module]) -> io::Result<()> {
    for directory in ["bin", "dev", "lib", "lib/modules"] {
        add(&mut to, directory, ModeFileType::Directory, 0o755, &[])?;
    }
    add(
        &mut to,
        "bin/busybox",
        ModeFileType::Regular,
        0o755,
        busybox,
    )?;
    add(
        &mut to,
        "init",
        ModeFileType::Regular,
        0o755,
        INIT.as_bytes(),
    )?;
    let mut order = String::new();
    for module in modules {
        let path = format!("lib/modules/{}.ko", module.name);
        add(&mut to, &path, ModeFileType::Regular, 0o644, &module.image)?;
        order.push_str(&module.name);
        order.push_str(".ko\n");
    }
    add(
        &mut to,
        "lib/modules/order",
        ModeFileType::Regular,
        0o644,
        order.as_bytes(),
    )?;
    newc::trailer(to)?.flush()
}

fn add(
    to: &mut impl Write,
    path: &str,
    kind: ModeFileType,
    permissions: u32,
    data: &[u8],
) -> io::Result<()> {
    let size = u32::try_from(data.len()).map_err(io::Error::other)?;
    let mut writer = newc::Builder::new(path)
        .mode(permissions)
        .set_mode_file_type(kind)
        .nlink(1)
        .write(to, size);
    writer.write_all(data)?;
    writer.finish().map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

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
