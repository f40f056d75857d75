//! When an unmapping must be preceded by a sync.

/// What the rule needs to know of a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Address behind the last.
    pub end: u64,
    /// Backed by a file.
    pub has_file: bool,
    /// Executable.
    pub executable: bool,
}

/// OProfile's rule for `munmap`: sync first when the first mapping that ends above `address` is executable and has a file.
///
/// `mappings` are those of the caller's address space, by ascending address. The length that is unmapped plays no part: an
/// address in the gap below such a mapping needs a sync, a range that only begins in another mapping does not.
pub fn unmap_needs_sync(mappings: impl IntoIterator<Item = Mapping>, address: u64) -> bool {
    mappings
        .into_iter()
        .find(|mapping| mapping.end > address)
        .is_some_and(|mapping| mapping.has_file && mapping.executable)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn mapping(end: u64, has_file: bool, executable: bool) -> Mapping {
        Mapping {
            end,
            has_file,
            executable,
        }
    }

    const MAPPINGS: [Mapping; 4] = [
        mapping(0x2000, true, true),
        mapping(0x3000, true, false),
        mapping(0x5000, false, true),
        mapping(0x9000, true, true),
    ];

    #[test]
    fn only_executable_file_mappings_need_a_sync() {
        assert!(unmap_needs_sync(MAPPINGS, 0x1fff));
        assert!(!unmap_needs_sync(MAPPINGS, 0x2000));
        assert!(!unmap_needs_sync(MAPPINGS, 0x4000));
    }

    #[test]
    fn an_address_in_the_gap_below_counts_as_the_mapping_above() {
        assert!(unmap_needs_sync(MAPPINGS, 0x5000));
        assert!(unmap_needs_sync(MAPPINGS, 0));
    }

    #[test]
    fn an_address_above_every_mapping_needs_none() {
        assert!(!unmap_needs_sync(MAPPINGS, 0x9000));
        assert!(!unmap_needs_sync([], 0));
    }
}
