//! From files to a guest that can be entered.

mod bzimage;
pub mod cmdline;
mod embedded;
mod entry;
mod kernel;
mod linux;
pub mod map;
pub mod pvh;

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use linux_loader::cmdline::Cmdline;
use linux_loader::loader::load_cmdline;
use thiserror::Error;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

pub use entry::Entry;
pub use kernel::{KernelError, KernelImage, KernelKind};

use crate::acpi;
use crate::config::{Source, VmConfig};
use crate::memory::{HOLE_START, Layout};

/// The initrd starts on a page.
const PAGE: u64 = 4096;

/// Why the guest cannot be booted.
#[derive(Debug, Error)]
pub enum BootError {
    /// A file cannot be read.
    #[error("Cannot read {what} {}", path.display())]
    Read {
        /// "kernel" or "initrd".
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The kernel is unusable.
    #[error("Kernel {name} cannot be booted")]
    Kernel {
        /// The file.
        name: String,
        /// Why not.
        #[source]
        source: KernelError,
    },
    /// The kernel does not fit.
    #[error(
        "The kernel needs guest memory up to {needed:#x}, there are {available} MiB below the hole; use a larger --memory",
        available = available >> 20
    )]
    KernelTooBig {
        /// Where it ends.
        needed: u64,
        /// End of low RAM.
        available: u64,
    },
    /// The kernel wants to be where no memory can be.
    #[error(
        "The kernel needs guest memory up to {0:#x}, but a guest has none between {HOLE_START:#x} and 4 GiB; its headers are \
         damaged, or it is no kernel for such a machine"
    )]
    KernelTooHigh(u64),
    /// The initrd does not fit beside the kernel.
    #[error(
        "The initrd of {size} bytes does not fit between the kernel and {limit:#x}, where {room} bytes are free; use a larger \
         --memory or a smaller initrd"
    )]
    InitrdTooBig {
        /// Its bytes.
        size: u64,
        /// Bytes between kernel and limit.
        room: u64,
        /// End of low RAM, or of what the kernel can take an initrd from.
        limit: u64,
    },
    /// Nothing is in the initrd.
    #[error("The initrd {} is empty; build it again, or leave --initrd out", .0.display())]
    InitrdEmpty(PathBuf),
    /// A file is larger than the guest.
    #[error("The {what} {} is larger than guest memory; use a larger --memory, or is it another file?", path.display())]
    FileTooBig {
        /// "kernel" or "initrd".
        what: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// Writing failed although everything had been checked.
    #[error("Cannot write the kernel's command line into guest memory")]
    CommandLine(#[source] linux_loader::loader::Error),
    /// As [`BootError::CommandLine`].
    #[error("Cannot write the kernel into guest memory")]
    Image(#[source] vm_memory::GuestMemoryError),
    /// As [`BootError::CommandLine`].
    #[error("Cannot write the boot information into guest memory")]
    Parameters(#[source] linux_loader::configurator::Error),
    /// ACPI tables.
    #[error("Cannot describe the machine to the guest")]
    Acpi(#[source] acpi::TableError),
    /// As [`BootError::CommandLine`].
    #[error("Cannot write the initrd into guest memory")]
    Initrd(#[source] vm_memory::GuestMemoryError),
}

/// Kernel and initrd, read and checked; neither KVM nor guest memory is needed for that.
#[derive(Clone, Debug)]
pub struct BootFiles {
    kernel: KernelImage,
    initrd: Option<Cow<'static, [u8]>>,
}

impl BootFiles {
    /// A checked kernel, with the content of an initrd.
    pub const fn new(kernel: KernelImage, initrd: Option<Cow<'static, [u8]>>) -> Self {
        Self { kernel, initrd }
    }

    /// Reads what `config` names.
    ///
    /// # Errors
    /// When a file cannot be read or the kernel cannot be booted.
    pub fn read(config: &VmConfig) -> Result<Self, BootError> {
        let (name, bytes) = match &config.kernel {
            Source::File(path) => {
                let bytes = read("kernel", path, config.memory)?;
                (path.display().to_string(), bytes.into())
            }
            Source::Embedded => ("(built in)".to_owned(), embedded::KERNEL.into()),
        };
        let kernel =
            KernelImage::new(bytes).map_err(|source| BootError::Kernel { name, source })?;
        let initrd = match &config.initrd {
            Some(Source::File(path)) => match read("initrd", path, config.memory)? {
                bytes if bytes.is_empty() => return Err(BootError::InitrdEmpty(path.clone())),
                bytes => Some(bytes.into()),
            },
            Some(Source::Embedded) => Some(embedded::INITRD.into()),
            None => None,
        };
        Ok(Self::new(kernel, initrd))
    }

    /// Where and how the kernel is entered.
    pub fn entry(&self) -> Entry {
        self.kernel.entry()
    }

    /// The initrd.
    pub fn initrd(&self) -> Option<&[u8]> {
        self.initrd.as_deref()
    }

    /// Decides where everything goes.
    ///
    /// # Errors
    /// When kernel and initrd do not fit into low RAM.
    pub fn place(&self, layout: Layout) -> Result<Placement, BootError> {
        let (needed, available) = (self.kernel.end(), layout.low_end());
        if needed > HOLE_START {
            return Err(BootError::KernelTooHigh(needed));
        }
        if needed > available {
            return Err(BootError::KernelTooBig { needed, available });
        }
        let initrd = self.initrd.as_ref().map(|initrd| {
            let size = initrd.len() as u64;
            // As high as it goes, so that the kernel can use what follows it.
            let limit = available.min(self.kernel.initrd_limit());
            let start = limit.checked_sub(size).map(|start| start - start % PAGE);
            start
                .filter(|start| *start >= needed)
                .map(GuestAddress)
                .ok_or(BootError::InitrdTooBig {
                    size,
                    room: limit.saturating_sub(needed),
                    limit,
                })
        });
        Ok(Placement {
            layout,
            initrd: initrd.transpose()?,
        })
    }

    /// Writes kernel, initrd, boot structures and ACPI tables into guest memory.
    ///
    /// # Errors
    /// When `memory` is not the one that `placement` was made for, or the tables do not fit.
    pub fn load(
        &self,
        memory: &GuestMemoryMmap,
        placement: &Placement,
        cmdline: &Cmdline,
        machine: acpi::Machine<'_>,
    ) -> Result<(), BootError> {
        acpi::write(memory, machine).map_err(BootError::Acpi)?;
        load_cmdline(memory, GuestAddress(map::CMDLINE), cmdline)
            .map_err(BootError::CommandLine)?;
        let initrd = self.initrd.as_deref().zip(placement.initrd);
        if let Some((bytes, address)) = initrd {
            memory
                .write_slice(bytes, address)
                .map_err(BootError::Initrd)?;
        }
        let initrd = initrd.map(|(bytes, address)| (address, bytes.len() as u64));
        let layout = placement.layout;
        self.kernel.load(memory).map_err(BootError::Image)?;
        match self.kernel.kind() {
            KernelKind::Pvh(_) => pvh::write(memory, layout, initrd),
            KernelKind::Elf64(entry) => linux::write(memory, layout, None, *entry, initrd),
            KernelKind::BzImage(image) => {
                linux::write(memory, layout, Some(image.header), image.load, initrd)
            }
        }
        .map_err(BootError::Parameters)
    }
}

/// Where the parts go in guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    layout: Layout,
    initrd: Option<GuestAddress>,
}

impl Placement {
    /// GPA of the initrd.
    pub const fn initrd(&self) -> Option<GuestAddress> {
        self.initrd
    }
}

/// Reads a file of at most `memory` bytes; a device without an end is not read for ever.
fn read(what: &'static str, path: &Path, memory: u64) -> Result<Vec<u8>, BootError> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(memory.saturating_add(1)).read_to_end(&mut bytes))
        .map_err(|source| BootError::Read {
            what,
            path: path.to_owned(),
            source,
        })?;
    match bytes.len() as u64 > memory {
        true => Err(BootError::FileTooBig {
            what,
            path: path.to_owned(),
        }),
        false => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use vm_memory::GuestMemoryBackend;

    const MACHINE: acpi::Machine<'_> = acpi::Machine {
        cpus: 1,
        devices: &[],
    };

    fn files(code: usize, initrd: Option<usize>) -> BootFiles {
        BootFiles {
            kernel: KernelImage::new(kernel::tests::kernel(&vec![0x90; code], true).into())
                .unwrap(),
            initrd: initrd.map(|size| vec![7; size].into()),
        }
    }

    fn config(kernel: &Path, initrd: Option<&Path>) -> VmConfig {
        VmConfig {
            kernel: Source::File(kernel.to_owned()),
            initrd: initrd.map(|path| Source::File(path.to_owned())),
            cmdline: String::new(),
            cpus: 1,
            memory: 4 << 20,
            disks: Vec::new(),
            oprofile: None,
        }
    }

    #[test]
    fn everything_is_where_the_guest_looks_for_it() {
        let files = files(100, Some(5000));
        let layout = Layout::new(4 << 20).unwrap();
        let memory = layout.reserve().unwrap();
        let placement = files.place(layout).unwrap();
        let cmdline = cmdline::build("init=x", Some(1), &[], None).unwrap();
        files.load(&memory, &placement, &cmdline, MACHINE).unwrap();
        assert_eq!(files.entry(), Entry::Pvh(0x10_0000));
        assert_eq!(
            memory.read_obj::<u8>(GuestAddress(0x10_0063)).unwrap(),
            0x90
        );
        assert_eq!(memory.read_obj::<u8>(GuestAddress(0x10_0064)).unwrap(), 0);
        let initrd = placement.initrd.unwrap();
        assert_eq!(initrd.0, (4 << 20) - 0x2000);
        assert_eq!(
            memory
                .read_obj::<u8>(GuestAddress(initrd.0 + 4999))
                .unwrap(),
            7
        );
        let mut line = [0; 14];
        memory
            .read_slice(&mut line, GuestAddress(map::CMDLINE))
            .unwrap();
        assert_eq!(&line, b"init=x cpus=1\0");
        assert_eq!(memory.last_addr().0, (4 << 20) - 1);
    }

    #[test]
    fn linux_image_lies_where_its_header_wants_it() {
        let image = BootFiles {
            kernel: KernelImage::new(bzimage::tests::image(0x1000).into()).unwrap(),
            initrd: None,
        };
        let layout = Layout::new(4 << 20).unwrap();
        let memory = layout.reserve().unwrap();
        let placement = image.place(layout).unwrap();
        let cmdline = cmdline::build("quiet", None, &[], None).unwrap();
        image.load(&memory, &placement, &cmdline, MACHINE).unwrap();
        let code: u8 = memory.read_obj(GuestAddress(0x10_0fff)).unwrap();
        assert_eq!(code, 0x90);
        let mut pointer = [0; 8];
        memory
            .read_slice(&mut pointer, GuestAddress(acpi::RSDP))
            .unwrap();
        assert_eq!(&pointer, b"RSD PTR ");
    }

    #[test]
    fn a_kernel_larger_than_memory_is_told_before_anything_is_set_up() {
        let error = files(2 << 20, None)
            .place(Layout::new(2 << 20).unwrap())
            .unwrap_err();
        assert!(matches!(
            error,
            BootError::KernelTooBig {
                needed: 0x30_0000,
                ..
            }
        ));
        assert!(error.to_string().contains("--memory"));
    }

    #[test]
    fn an_initrd_that_would_overlap_the_kernel_is_refused() {
        let layout = Layout::new(2 << 20).unwrap();
        // The kernel takes a page; what is left is one page short of the rest of the MiB.
        assert!(files(1, Some((1 << 20) - 4096)).place(layout).is_ok());
        for size in [(1 << 20) - 4095, 1 << 20, 64 << 20] {
            let error = files(1, Some(size)).place(layout).unwrap_err();
            assert!(matches!(error, BootError::InitrdTooBig { .. }), "{size}");
        }
    }

    #[test]
    fn kernel_that_would_lie_in_the_hole_is_told_apart_from_one_that_is_too_large() {
        let mut image = bzimage::tests::image(0x1000);
        // `init_size`.
        image[0x260..0x264].fill(0xff);
        let files = BootFiles {
            kernel: KernelImage::new(image.into()).unwrap(),
            initrd: None,
        };
        let error = files.place(Layout::new(4 << 20).unwrap()).unwrap_err();
        assert!(
            matches!(error, BootError::KernelTooHigh(0x1_000f_ffff)),
            "{error}"
        );
    }

    #[test]
    fn initrd_stays_below_what_the_kernel_can_take() {
        let mut image = bzimage::tests::image(0x1000);
        // `initrd_addr_max`.
        image[0x22c..0x230].copy_from_slice(&0x1f_ffff_u32.to_le_bytes());
        let mut files = BootFiles {
            kernel: KernelImage::new(image.into()).unwrap(),
            initrd: Some(vec![7; 0x1000].into()),
        };
        let layout = Layout::new(16 << 20).unwrap();
        let placement = files.place(layout).unwrap();
        assert_eq!(placement.initrd, Some(GuestAddress(0x1f_f000)));
        files.initrd = Some(vec![7; 1 << 20].into());
        let error = files.place(layout).unwrap_err();
        assert!(
            matches!(
                error,
                BootError::InitrdTooBig {
                    limit: 0x20_0000,
                    room: 0xf_8000,
                    ..
                }
            ),
            "{error}"
        );
    }

    #[test]
    fn a_missing_file_is_named() {
        let missing = Path::new("/nonexistent/kernel");
        let error = BootFiles::read(&config(missing, None)).unwrap_err();
        assert_eq!(error.to_string(), "Cannot read kernel /nonexistent/kernel");

        let directory = tempfile::tempdir().unwrap();
        let good = directory.path().join("kernel");
        fs::write(&good, kernel::tests::kernel(&[0xf4], true)).unwrap();
        let error =
            BootFiles::read(&config(&good, Some(Path::new("/nonexistent/initrd")))).unwrap_err();
        assert_eq!(error.to_string(), "Cannot read initrd /nonexistent/initrd");
    }

    #[test]
    fn the_guest_inside_this_program_fits_into_the_default_memory() {
        let config = VmConfig {
            kernel: Source::Embedded,
            initrd: Some(Source::Embedded),
            ..config(Path::new(""), None)
        };
        let files = BootFiles::read(&config).unwrap();
        assert!(files.place(Layout::new(256 << 20).unwrap()).is_ok());
    }

    #[test]
    fn an_unusable_kernel_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let bad = directory.path().join("script");
        fs::write(&bad, "#!/bin/sh").unwrap();
        let error = BootFiles::read(&config(&bad, None)).unwrap_err();
        assert!(matches!(
            error,
            BootError::Kernel {
                source: KernelError::UnknownKind,
                ..
            }
        ));
        assert!(error.to_string().contains("script"));
    }
}
