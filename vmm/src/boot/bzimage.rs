//! Linux's compressed kernel image: its setup header (Linux's `Documentation/arch/x86/boot.rst`), checked before it is believed.

use linux_loader::loader::bootparam::setup_header;
use vm_memory::ByteValued;

use super::kernel::KernelError;
use crate::memory::LOW_END;

/// Where the setup header lies in the file.
const HEADER: usize = 0x1f1;
/// Where its magic lies.
const MAGIC_AT: usize = 0x202;
const MAGIC: &[u8] = b"HdrS";
/// The byte that tells where the header ends: so many bytes behind [`MAGIC_AT`].
const LENGTH_AT: usize = 0x201;
const SECTOR: usize = 512;
/// Unit of `syssize`.
const PARAGRAPH: u64 = 16;
/// Sectors of real-mode code when the header says 0.
const OLD_SECTORS: usize = 4;
/// Protocol version that brought `xloadflags`, `pref_address` and `init_size` (2.12, Linux 3.8).
const VERSION: u16 = 0x020c;
/// `loadflags`: the kernel is loaded at 1 MiB or above.
const LOADED_HIGH: u8 = 1;
/// `xloadflags`: there is a 64-bit entry.
const KERNEL_64: u16 = 1;
/// The 64-bit entry, from where the protected-mode code is loaded.
const ENTRY: u64 = 0x200;

/// What the setup header says, checked.
#[derive(Clone, Copy, Debug)]
pub struct BzImage {
    /// The header, for the zero page.
    pub header: setup_header,
    /// Where the protected-mode code begins in the file.
    pub code: usize,
    /// GPA that it is loaded at.
    pub load: u64,
    /// GPA behind the last byte that the kernel needs before it knows the memory map.
    pub end: u64,
}

/// Whether a file may be a kernel image.
pub fn is_bzimage(bytes: &[u8]) -> bool {
    bytes
        .get(MAGIC_AT..)
        .is_some_and(|rest| rest.starts_with(MAGIC))
}

impl BzImage {
    /// Reads the header of a file with the magic.
    ///
    /// # Errors
    /// When the kernel has no 64-bit entry, or the header contradicts itself or the file.
    pub fn parse(bytes: &[u8]) -> Result<Self, KernelError> {
        let truncated = KernelError::Truncated("the setup header");
        let length = usize::from(*bytes.get(LENGTH_AT).ok_or(truncated.clone())?);
        let available = bytes
            .get(HEADER..MAGIC_AT.saturating_add(length))
            .ok_or(truncated)?;
        // Fields that an older kernel lacks are 0.
        let mut header = setup_header::default();
        let taken = available.len().min(size_of::<setup_header>());
        header.as_mut_slice()[..taken].copy_from_slice(&available[..taken]);
        let (version, flags) = (header.version, header.xloadflags);
        if version < VERSION || header.loadflags & LOADED_HIGH == 0 || flags & KERNEL_64 == 0 {
            return Err(KernelError::No64BitEntry { version });
        }
        let sectors = match usize::from(header.setup_sects) {
            0 => OLD_SECTORS,
            sectors => sectors,
        };
        let code = (sectors + 1) * SECTOR;
        let size = bytes
            .len()
            .checked_sub(code)
            .filter(|size| {
                // A signature may follow.
                let told = u64::from(header.syssize) * PARAGRAPH;
                *size as u64 > ENTRY && *size as u64 >= told
            })
            .ok_or(KernelError::Truncated("the protected-mode code"))?;
        let load = header.pref_address;
        let needed = u64::from(header.init_size).max(size as u64);
        let end = load
            .checked_add(needed)
            .filter(|_| load >= LOW_END)
            .ok_or(KernelError::Address(load))?;
        Ok(Self {
            header,
            code,
            load,
            end,
        })
    }

    /// GPA of the 64-bit entry.
    pub const fn entry(&self) -> u64 {
        self.load + ENTRY
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A kernel image with this much protected-mode code.
    pub(crate) fn image(code: usize) -> Vec<u8> {
        let header = setup_header {
            setup_sects: 1,
            header: u32::from_le_bytes(*b"HdrS"),
            version: 0x020f,
            loadflags: LOADED_HIGH,
            xloadflags: KERNEL_64,
            pref_address: 0x10_0000,
            init_size: 0x8000,
            syssize: u32::try_from(code).unwrap() / 16,
            // Where the header ends is told in the second byte of a jump.
            jump: 0x6aeb,
            ..Default::default()
        };
        let mut file = vec![0; 2 * SECTOR];
        file[HEADER..HEADER + size_of::<setup_header>()].copy_from_slice(header.as_slice());
        file.resize(2 * SECTOR + code, 0x90);
        file
    }

    #[test]
    fn place_and_entry_are_found() {
        let file = image(0x1000);
        assert!(is_bzimage(&file));
        let image = BzImage::parse(&file).unwrap();
        assert_eq!(
            (image.code, image.load, image.end),
            (1024, 0x10_0000, 0x10_8000)
        );
        assert_eq!(image.entry(), 0x10_0200);
    }

    #[test]
    fn kernel_without_a_64_bit_entry_is_refused() {
        let mut file = image(0x1000);
        file[0x236] = 0;
        assert_eq!(
            BzImage::parse(&file).unwrap_err(),
            KernelError::No64BitEntry { version: 0x020f }
        );
    }

    #[test]
    fn truncated_image_is_refused() {
        let whole = image(0x1000);
        for length in [0x206, 0x240, 1024, 1024 + 0x200, 1024 + 0xfff] {
            let error = BzImage::parse(&whole[..length]).unwrap_err();
            assert!(
                matches!(error, KernelError::Truncated(_)),
                "{length:#x}: {error}"
            );
        }
    }

    #[test]
    fn image_that_loads_over_the_boot_structures_is_refused() {
        let mut file = image(0x1000);
        file[0x258..0x260].copy_from_slice(&0x1000_u64.to_le_bytes());
        assert_eq!(
            BzImage::parse(&file).unwrap_err(),
            KernelError::Address(0x1000)
        );
    }

    #[test]
    fn header_that_tells_more_than_there_is_is_refused() {
        let mut file = image(0x1000);
        // Sectors of real-mode code.
        file[0x1f1] = 200;
        let error = BzImage::parse(&file).unwrap_err();
        assert_eq!(error, KernelError::Truncated("the protected-mode code"));
        let mut file = image(0x1000);
        file[0x258..0x260].copy_from_slice(&(u64::MAX - 0x100).to_le_bytes());
        let error = BzImage::parse(&file).unwrap_err();
        assert_eq!(error, KernelError::Address(u64::MAX - 0x100));
    }

    proptest! {
        #[test]
        fn damaged_header_is_read_or_refused(
            damage in prop::collection::vec((HEADER..0x270, any::<u8>()), 1..8),
            length in 0_usize..0x1400,
        ) {
            let mut file = image(0x1000);
            for (index, byte) in damage {
                file[index] = byte;
            }
            file.truncate(length);
            if let Ok(image) = BzImage::parse(&file) {
                prop_assert!(image.load >= LOW_END && image.end > image.load && image.code < file.len());
            }
        }
    }
}
