//! `oprofile-vmm run`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::size;
use crate::config::{DiskConfig, MAX_VCPUS, OprofileDevConfig, Source, VmConfig, disk};
use crate::console::terminal::{self, Restored};
use crate::exit_code;
use crate::report::Chain;
use crate::signals;
use crate::vm::{self, Event, VmError};

/// Boots a guest and runs it to its end.
///
/// The guest's serial port is standard output and, from when the guest listens to it, standard input. A terminal is raw then,
/// and Ctrl-A x stops the guest; Ctrl-A a is Ctrl-A. SIGINT, SIGTERM and SIGHUP stop the guest and complete the session; a second
/// one ends the program at once.
///
/// Exit codes: 0 the guest powered off or was stopped, and the session is complete; 1 the VMM failed; 2 usage; 3 KVM or
/// memory not available; 4 kernel, initrd or disk image not usable; 5 session directory not writable; 6 session not complete; 10 guest
/// reset; 11 triple fault; 12 KVM internal error.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Kernel: a Linux image (vmlinuz, bzImage) or an ELF file (vmlinux) [default: the tiny guest inside this program].
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// Initial RAM disk; the profile takes the guest's programs from it if it is a newc cpio archive.
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,
    /// Kernel command line; what the guest must know of the machine is appended.
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        allow_hyphen_values = true
    )]
    cmdline: String,
    /// Number of vCPUs.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=i64::from(MAX_VCPUS)))]
    cpus: u16,
    /// Guest memory, for instance 256M or 2G.
    #[arg(long, value_name = "SIZE", default_value = "256M", value_parser = size::parse)]
    memory: u64,
    /// Adds a disk with the content of a raw image; may be given several times. ro: the guest may not write.
    #[arg(long = "disk", value_name = disk::SYNTAX)]
    disks: Vec<DiskConfig>,
    /// Adds the profiling device.
    ///
    /// KEYS is a list of key=value; session or socket is needed:
    ///
    ///   session=DIR               the profile goes there, for opreport
    ///   socket=PATH               control socket, for opcontrol and opread
    ///   hz=N                      samples a second and vCPU
    ///   callgraph=DEPTH           most frames of a call chain
    ///   clock=CLOCK               guest-timer, or host-nmi, which sees code that runs with interrupts off
    ///   buffer-size=WORDS         event buffer
    ///   buffer-watershed=WORDS    free words of it at which it is read
    ///   cpu-buffer-size=ENTRIES   sample buffers of a vCPU together
    ///   device-id=ID              virtio device id
    ///   archive=on                sampled files from the disks and a compressed initrd go into the session
    #[arg(long, value_name = "KEYS", verbatim_doc_comment)]
    oprofile_dev: Option<OprofileDevConfig>,
}

impl From<Arguments> for VmConfig {
    fn from(arguments: Arguments) -> Self {
        let (kernel, initrd) = match arguments.kernel {
            Some(kernel) => (Source::File(kernel), None),
            None => (Source::Embedded, Some(Source::Embedded)),
        };
        Self {
            kernel,
            initrd: arguments.initrd.map(Source::File).or(initrd),
            cmdline: arguments.cmdline,
            cpus: arguments.cpus,
            memory: arguments.memory,
            disks: arguments.disks,
            oprofile: arguments.oprofile_dev,
        }
    }
}

/// Runs the VM, tells how it went on stderr, and returns the exit code.
pub fn run(arguments: Arguments) -> ExitCode {
    let config = arguments.into();
    let (sender, events) = vm::events();
    let signal = sender.clone();
    let stop = move |number| {
        // Nobody listens any more: the VM has ended.
        let _ = signal.send(Event::Signal(number));
    };
    let watched =
        signals::on_first(stop, terminal::restore_for_good).map_err(|source| VmError::Io {
            what: "watch for signals",
            source,
        });
    let terminal = Restored;
    let result = watched.and_then(|()| vm::run(&config, sender, &events));
    // Before anything is told.
    drop(terminal);
    match result {
        Ok(outcome) => {
            match &outcome.end {
                Some(report) => eprintln!("{report}"),
                None => eprintln!("Guest stopped by a signal or Ctrl-A x"),
            }
            if let Some(summary) = &outcome.summary {
                eprint!("{summary}");
            }
            outcome.exit_code().into()
        }
        Err(error) => {
            eprintln!("oprofile-vmm: {}", Chain(&error));
            exit_code::ExitCode::from(&error).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::oprofile_dev::KEYS;
    use clap::{CommandFactory as _, Parser};

    #[derive(Debug, Parser)]
    struct Only {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn config(words: &[&str]) -> Result<VmConfig, clap::Error> {
        let words = ["run"].iter().chain(words);
        Only::try_parse_from(words).map(|only| only.arguments.into())
    }

    #[test]
    fn the_tiny_guest_is_the_default() {
        let config = config(&[]).unwrap();
        assert_eq!(config.kernel, Source::Embedded);
        assert_eq!(config.initrd, Some(Source::Embedded));
        assert_eq!((config.cpus, config.memory), (1, 256 << 20));
        assert_eq!(config.oprofile, None);
    }

    #[test]
    fn a_kernel_of_ones_own_comes_without_the_built_in_initrd() {
        let config = config(&["--kernel", "k"]).unwrap();
        assert_eq!(config.kernel, Source::File("k".into()));
        assert_eq!(config.initrd, None);
    }

    #[test]
    fn an_initrd_of_ones_own_goes_with_the_tiny_kernel() {
        let config = config(&["--initrd", "i", "--cpus=8", "--memory=1G"]).unwrap();
        assert_eq!(config.kernel, Source::Embedded);
        assert_eq!(config.initrd, Some(Source::File("i".into())));
        assert_eq!((config.cpus, config.memory), (8, 1 << 30));
    }

    #[test]
    fn help_names_every_key() {
        let help = Only::command().render_long_help().to_string();
        for key in KEYS {
            assert!(help.contains(&format!("  {key}=")), "{key}: {help}");
        }
    }

    #[test]
    fn bad_values_are_refused_by_name() {
        for (words, part) in [
            (["--cpus", "0"], "1..=32"),
            (["--cpus", "33"], "1..=32"),
            (["--memory", "much"], "much"),
            (["--oprofile-dev", "session=s,color=red"], "callgraph"),
        ] {
            let message = config(&words).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        }
    }
}
