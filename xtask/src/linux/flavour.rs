//! Which of Debian's kernels a guest runs.

use clap::ValueEnum;

/// A series of kernels and a configuration of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Flavour {
    /// Debian 12's own series, configured for virtual machines.
    #[value(name = "6.1-cloud")]
    Cloud61,
    /// Debian 12's own series, configured for everything.
    #[value(name = "6.1-amd64")]
    Amd64Of61,
    /// The series of Debian 13 as Debian 12 offers it, configured for virtual machines.
    #[value(name = "6.12-cloud")]
    Cloud612,
}

impl Flavour {
    /// All that the tests boot.
    pub const ALL: [Self; 3] = [Self::Cloud61, Self::Amd64Of61, Self::Cloud612];

    /// Its name on the command line, and its directory's.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cloud61 => "6.1-cloud",
            Self::Amd64Of61 => "6.1-amd64",
            Self::Cloud612 => "6.12-cloud",
        }
    }

    /// The package that depends on its newest build.
    pub fn meta_package(self) -> &'static str {
        match self {
            Self::Cloud61 => "linux-image-cloud-amd64",
            Self::Amd64Of61 => "linux-image-amd64",
            Self::Cloud612 => "linux-image-6.12-cloud-amd64",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_flavour_is_named_alike_on_the_command_line_and_in_the_tree() {
        for flavour in Flavour::ALL {
            assert_eq!(Flavour::from_str(flavour.name(), false), Ok(flavour));
        }
        assert_eq!(Flavour::value_variants(), Flavour::ALL);
    }
}
