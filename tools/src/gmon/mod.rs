//! Writer of `gmon.out`, the file that gprof reads.
//!
//! A file of version 1 is a header and records: one histogram of program counters, and an arc for each pair of caller
//! and callee. The fields are native to the profiled program: its byte order, addresses of its size.

pub mod collect;

use std::collections::BTreeMap;
use std::io::{self, Write};

/// What a bin of the histogram can hold: the format gives it 16 bits.
pub const MAX_BIN: u16 = u16::MAX;

/// Bins of a histogram, 512 MiB of file. A bin is two bytes of code at least; no program has more code than this holds,
/// but a damaged one may claim to.
const MAX_BINS: u64 = 1 << 28;

/// Zeros that are written at once, bytes.
const CHUNK: usize = 1 << 16;

/// Code bytes that a bin stands for.
const NARROW_BIN: u64 = 2;
/// The same where all samples lie on multiples of [`WIDE_ALIGNMENT`], as they do where instructions are four bytes wide.
const WIDE_BIN: u64 = 8;
/// See [`WIDE_BIN`].
const WIDE_ALIGNMENT: u64 = 4;

/// How the profiled program writes numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Addresses of eight bytes instead of four.
    pub wide: bool,
    /// Most significant byte first.
    pub big_endian: bool,
}

/// Why there is no file.
#[derive(Debug, thiserror::Error)]
pub enum GmonError {
    /// No sample lies in the program.
    #[error("No samples to write")]
    NoSamples,
    /// The samples are further apart than code can be.
    #[error("Samples from {low:#x} to {high:#x} are too far apart for a histogram")]
    Range {
        /// The lowest address.
        low: u64,
        /// The highest address.
        high: u64,
    },
    /// An address does not fit into the program's address size.
    #[error("Address {0:#x} does not fit into a 32-bit program")]
    Address(u64),
    /// The file cannot be written.
    #[error("Cannot write the file")]
    Output(#[from] io::Error),
}

/// Samples that found no room in their bin.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Capped {
    /// For each full bin, how many samples are missing there.
    pub excess: Vec<u64>,
}

/// A profile on its way to a file.
#[derive(Debug, Clone, Default)]
pub struct Profile {
    /// Address → samples. Those of 0 samples make the histogram wide enough and add nothing.
    samples: BTreeMap<u64, u64>,
    /// (Address in the caller, address of the callee) → times.
    arcs: BTreeMap<(u64, u64), u64>,
}

impl Profile {
    /// Adds samples at an address.
    pub fn sample(&mut self, address: u64, count: u64) {
        let sum = self.samples.entry(address).or_default();
        *sum = sum.saturating_add(count);
    }

    /// Adds calls from an address to another.
    pub fn arc(&mut self, from: u64, to: u64, count: u64) {
        let sum = self.arcs.entry((from, to)).or_default();
        *sum = sum.saturating_add(count);
    }

    /// Code bytes for each bin.
    fn bin_width(&self) -> u64 {
        if self
            .samples
            .keys()
            .all(|address| address.is_multiple_of(WIDE_ALIGNMENT))
        {
            WIDE_BIN
        } else {
            NARROW_BIN
        }
    }

    /// Where the histogram begins and ends, and how it is divided.
    fn extent(&self) -> Result<Extent, GmonError> {
        let (Some((&first, _)), Some((&last, _))) = (
            self.samples.first_key_value(),
            self.samples.last_key_value(),
        ) else {
            return Err(GmonError::NoSamples);
        };
        let too_far = GmonError::Range {
            low: first,
            high: last,
        };
        let width = self.bin_width();
        let low = first - first % width;
        let Some(high) = (last - last % width).checked_add(width) else {
            return Err(too_far);
        };
        let bins = (high - low) / width;
        match i32::try_from(bins) {
            Ok(header_bins) if bins <= MAX_BINS => Ok(Extent {
                low,
                high,
                width,
                bins,
                header_bins,
            }),
            _ => Err(too_far),
        }
    }

    /// Whether [`Profile::write`] can succeed.
    pub fn check(&self, layout: Layout) -> Result<(), GmonError> {
        let extent = self.extent()?;
        layout.address(extent.high)?;
        for (from, to) in self.arcs.keys() {
            layout.address(*from)?;
            layout.address(*to)?;
        }
        Ok(())
    }

    /// Writes the file. Memory does not grow with the distance of the samples.
    pub fn write(&self, output: &mut impl Write, layout: Layout) -> Result<Capped, GmonError> {
        let Extent {
            low,
            high,
            width,
            bins,
            header_bins,
        } = self.extent()?;
        output.write_all(b"gmon")?;
        output.write_all(&layout.int(1))?;
        output.write_all(&[0; 12])?;

        output.write_all(&[TAG_HISTOGRAM])?;
        output.write_all(&layout.address(low)?)?;
        output.write_all(&layout.address(high)?)?;
        output.write_all(&layout.int(header_bins))?;
        // One tick a second, so that gprof's seconds are samples.
        output.write_all(&layout.int(1))?;
        output.write_all(b"samples\0\0\0\0\0\0\0\0")?;
        output.write_all(b"1")?;
        let capped = self.write_bins(output, layout, low, width, bins)?;

        for (&(from, to), &count) in &self.arcs {
            output.write_all(&[TAG_ARC])?;
            output.write_all(&layout.address(from)?)?;
            output.write_all(&layout.address(to)?)?;
            output.write_all(&layout.uint(u32::try_from(count).unwrap_or(u32::MAX)))?;
        }
        Ok(capped)
    }

    fn write_bins(
        &self,
        output: &mut impl Write,
        layout: Layout,
        low: u64,
        width: u64,
        bins: u64,
    ) -> Result<Capped, GmonError> {
        let mut capped = Capped::default();
        let mut written = 0;
        let mut samples = self.samples.iter().peekable();
        while let Some((address, count)) = samples.next() {
            let bin = (address - low) / width;
            let mut sum = *count;
            while let Some((_, more)) =
                samples.next_if(|(address, _)| (**address - low) / width == bin)
            {
                sum = sum.saturating_add(*more);
            }
            if sum == 0 {
                continue;
            }
            write_zeros(output, bin - written)?;
            let shown = u16::try_from(sum).unwrap_or(MAX_BIN);
            if sum > u64::from(MAX_BIN) {
                capped.excess.push(sum - u64::from(MAX_BIN));
            }
            output.write_all(&if layout.big_endian {
                shown.to_be_bytes()
            } else {
                shown.to_le_bytes()
            })?;
            written = bin + 1;
        }
        write_zeros(output, bins - written)?;
        Ok(capped)
    }
}

/// See [`Profile::extent`].
struct Extent {
    low: u64,
    high: u64,
    width: u64,
    bins: u64,
    header_bins: i32,
}

const TAG_HISTOGRAM: u8 = 0;
const TAG_ARC: u8 = 1;

impl Layout {
    fn int(self, value: i32) -> [u8; 4] {
        if self.big_endian {
            value.to_be_bytes()
        } else {
            value.to_le_bytes()
        }
    }

    fn uint(self, value: u32) -> [u8; 4] {
        if self.big_endian {
            value.to_be_bytes()
        } else {
            value.to_le_bytes()
        }
    }

    fn address(self, value: u64) -> Result<Vec<u8>, GmonError> {
        if self.wide {
            return Ok(if self.big_endian {
                value.to_be_bytes().to_vec()
            } else {
                value.to_le_bytes().to_vec()
            });
        }
        let value = u32::try_from(value).map_err(|_| GmonError::Address(value))?;
        Ok(self.uint(value).to_vec())
    }
}

/// Empty bins.
fn write_zeros(output: &mut impl Write, mut bins: u64) -> io::Result<()> {
    static ZEROS: [u8; CHUNK] = [0; CHUNK];
    while bins > 0 {
        let now = usize::try_from(bins).map_or(CHUNK / 2, |bins| bins.min(CHUNK / 2));
        output.write_all(&ZEROS[..now * 2])?;
        bins -= now as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const X86_64: Layout = Layout {
        wide: true,
        big_endian: false,
    };

    fn profile(samples: &[(u64, u64)]) -> Profile {
        let mut profile = Profile::default();
        for (address, count) in samples {
            profile.sample(*address, *count);
        }
        profile
    }

    fn written(profile: &Profile, layout: Layout) -> (Vec<u8>, Capped) {
        let mut bytes = Vec::new();
        let capped = profile.write(&mut bytes, layout).unwrap();
        (bytes, capped)
    }

    /// Low, high, bins of a little-endian file of a 64-bit program.
    fn histogram(bytes: &[u8]) -> (u64, u64, Vec<u16>) {
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        let bins = i32::from_le_bytes(bytes[37..41].try_into().unwrap());
        let bins = usize::try_from(bins).unwrap();
        let values = bytes[61..61 + 2 * bins]
            .chunks_exact(2)
            .map(|bin| u16::from_le_bytes(bin.try_into().unwrap()))
            .collect();
        (word(21), word(29), values)
    }

    #[test]
    fn samples_of_one_bin_are_added() {
        let (bytes, capped) = written(&profile(&[(0x1149, 11), (0x114c, 3), (0x114d, 4)]), X86_64);
        assert_eq!(&bytes[..8], b"gmon\x01\0\0\0");
        assert_eq!(histogram(&bytes), (0x1148, 0x114e, vec![11, 0, 7]));
        assert_eq!(capped, Capped::default());
    }

    #[test]
    fn bins_are_wide_where_all_instructions_are_aligned() {
        let (bytes, _) = written(&profile(&[(0x11c4, 3)]), X86_64);
        assert_eq!(histogram(&bytes), (0x11c0, 0x11c8, vec![3]));
        let (bytes, _) = written(&profile(&[(0x11c4, 3), (0x11d0, 1)]), X86_64);
        assert_eq!(histogram(&bytes), (0x11c0, 0x11d8, vec![3, 0, 1]));
    }

    #[test]
    fn bin_is_full_at_65535_and_the_rest_is_told() {
        let (bytes, capped) = written(
            &profile(&[
                (0x1001, 65535),
                (0x1002, 65536),
                (0x1004, u64::MAX),
                (0x1005, 9),
            ]),
            X86_64,
        );
        assert_eq!(histogram(&bytes).2, [65535, 65535, 65535]);
        assert_eq!(capped.excess, [1, u64::MAX - 65535]);
    }

    #[test]
    fn samples_of_zero_only_widen_the_histogram() {
        let (bytes, _) = written(&profile(&[(0x1001, 0), (0x1003, 1), (0x1007, 0)]), X86_64);
        assert_eq!(histogram(&bytes), (0x1000, 0x1008, vec![0, 1, 0, 0]));
    }

    #[test]
    fn arcs_follow_the_histogram() {
        let mut profile = profile(&[(0x1001, 1)]);
        profile.arc(0x1001, 0x2000, 5);
        profile.arc(0x1001, 0x2000, u64::MAX);
        let (bytes, _) = written(&profile, X86_64);
        let mut arc = vec![TAG_ARC];
        arc.extend(0x1001u64.to_le_bytes());
        arc.extend(0x2000u64.to_le_bytes());
        arc.extend(u32::MAX.to_le_bytes());
        assert!(bytes.ends_with(&arc), "{bytes:x?}");
    }

    #[test]
    fn file_is_in_the_programs_own_layout() {
        let layout = Layout {
            wide: false,
            big_endian: true,
        };
        let (bytes, _) = written(&profile(&[(0x804_9001, 0x102)]), layout);
        assert_eq!(&bytes[4..8], [0, 0, 0, 1]);
        assert_eq!(&bytes[21..29], [8, 4, 0x90, 0, 8, 4, 0x90, 2]);
        assert!(bytes.ends_with(&[1, 2]));
        let mut bytes = Vec::new();
        assert!(matches!(
            profile(&[(1 << 32, 1)]).write(&mut bytes, layout),
            Err(GmonError::Address(_))
        ));
    }

    #[test]
    fn samples_without_measure_are_refused() {
        for samples in [
            &[(1, 1), (u64::MAX - 3, 1)][..],
            &[(u64::MAX, 1)],
            &[(1, 1), (MAX_BINS * 2 + 1, 1)],
        ] {
            let mut bytes = Vec::new();
            assert!(matches!(
                profile(samples).write(&mut bytes, X86_64),
                Err(GmonError::Range { .. })
            ));
        }
        let mut bytes = Vec::new();
        assert!(matches!(
            Profile::default().write(&mut bytes, X86_64),
            Err(GmonError::NoSamples)
        ));
    }

    proptest! {
        #[test]
        fn no_sample_vanishes(samples in prop::collection::vec((0x1000u64..0x9000, 0u64..200_000), 1..40)) {
            let (bytes, capped) = written(&profile(&samples), X86_64);
            let (low, high, bins) = histogram(&bytes);
            let shown: u64 = bins.iter().copied().map(u64::from).sum();
            let excess: u64 = capped.excess.iter().sum();
            prop_assert_eq!(shown + excess, samples.iter().map(|(_, count)| count).sum::<u64>());
            prop_assert!(samples.iter().all(|(address, _)| (low..high).contains(address)));
        }
    }
}
