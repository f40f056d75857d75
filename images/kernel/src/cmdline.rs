//! The kernel command line: words of `key=value`, as Linux writes them.

/// A device announced by `virtio_mmio.device=SIZE@BASE:IRQ`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MmioDevice {
    /// Bytes of its register window.
    pub size: u64,
    /// GPA of its register window.
    pub base: u64,
    /// Global system interrupt.
    pub gsi: u32,
}

/// A command line.
#[derive(Clone, Copy, Debug)]
pub struct CommandLine<'a>(&'a [u8]);

impl<'a> CommandLine<'a> {
    /// Reads `bytes` up to the first NUL.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
        Self(&bytes[..end])
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.0
    }

    /// Every value of `key`, in order.
    pub fn values(&self, key: &'a str) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        self.0
            .split(u8::is_ascii_whitespace)
            .filter_map(move |word| word.strip_prefix(key.as_bytes())?.strip_prefix(b"="))
    }

    /// The last value of `key`: what was appended overrides.
    #[must_use]
    pub fn value(&self, key: &'a str) -> Option<&'a [u8]> {
        self.values(key).last()
    }

    /// The last value of `key` as a number; `None` when absent or no number.
    #[must_use]
    pub fn number(&self, key: &'a str) -> Option<u64> {
        number(self.value(key)?)
    }

    /// The virtio-mmio devices; malformed ones are passed over.
    pub fn mmio_devices(&self) -> impl Iterator<Item = MmioDevice> + use<'a> {
        self.values("virtio_mmio.device").filter_map(mmio_device)
    }
}

fn mmio_device(value: &[u8]) -> Option<MmioDevice> {
    let at = value.iter().position(|b| *b == b'@')?;
    let (size, rest) = (&value[..at], &value[at + 1..]);
    let mut parts = rest.split(|b| *b == b':');
    Some(MmioDevice {
        size: size_number(size)?,
        base: number(parts.next()?)?,
        gsi: u32::try_from(number(parts.next()?)?).ok()?,
    })
}

fn size_number(text: &[u8]) -> Option<u64> {
    let (digits, factor) = match text.split_last()? {
        (b'K' | b'k', digits) => (digits, 1 << 10),
        (b'M' | b'm', digits) => (digits, 1 << 20),
        _ => (text, 1),
    };
    number(digits)?.checked_mul(factor)
}

/// A decimal number, or a hexadecimal one behind `0x`.
#[must_use]
pub fn number(text: &[u8]) -> Option<u64> {
    let text = core::str::from_utf8(text).ok()?;
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read_in_linux_syntax() {
        let line = CommandLine::new(
            b"cpus=2 virtio_mmio.device=4K@0xd0000000:5 virtio_mmio.device=bad virtio_mmio.device=512@4096:6:1\0x=1",
        );
        let devices: Vec<_> = line.mmio_devices().collect();
        assert_eq!(
            devices,
            [
                MmioDevice {
                    size: 4096,
                    base: 0xd000_0000,
                    gsi: 5
                },
                MmioDevice {
                    size: 512,
                    base: 4096,
                    gsi: 6
                },
            ]
        );
        assert_eq!(line.number("x"), None);
    }

    #[test]
    fn the_last_value_counts() {
        let line = CommandLine::new(b"init=a cpus=x  init=b");
        assert_eq!(line.value("init"), Some(&b"b"[..]));
        assert_eq!(line.number("cpus"), None);
        assert_eq!(line.value("in"), None);
    }
}
