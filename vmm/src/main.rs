//! `oprofile-vmm`: see [`oprofile_vmm::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    oprofile_vmm::cli::main()
}
