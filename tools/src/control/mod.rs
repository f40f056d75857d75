//! What `opcontrol` says: status, what to do next, and in [`watch`] the account from second to second.

pub mod watch;

use std::error::Error;
use std::fmt::Write as _;

use oprofile_control::Status;
use oprofile_control::message::Separation;
use oprofile_control::status::{Counter, Reader};
use thiserror::Error;

use crate::cli::run::with_causes;
use crate::names::printable;

/// Settings that mean nothing for a virtual machine.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SettingError {
    /// Another event than the timer.
    #[error(
        "Event {0:?} cannot be sampled: a virtual machine is sampled by its timer. Leave --event out; --hz sets the rate"
    )]
    Event(String),
    /// `--separate` with something else.
    #[error("--separate={0} is not possible here: none, library (lib), kernel, cpu and all are")]
    Separate(String),
}

/// Ends a program without a message: its reader is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("")]
pub struct Quiet;

/// An error with its causes, which may hold a guest's or a stranger's bytes.
#[must_use]
pub fn told(error: &dyn Error) -> String {
    printable(with_causes(error).as_bytes())
}

/// Checks an event of OProfile's form, `name:count:…`.
///
/// # Errors
/// Unless it is the timer.
pub fn check_event(event: &str) -> Result<(), SettingError> {
    let name = event.split(':').next().unwrap_or_default();
    match name.eq_ignore_ascii_case("timer") || name == "default" {
        true => Ok(()),
        false => Err(SettingError::Event(event.to_owned())),
    }
}

/// What `--separate` asks for: under which program, and whether in a file for each vCPU. `None` when it is not given.
///
/// # Errors
/// For words of OProfile's that mean nothing here, `thread`, and any others.
pub fn separation(words: &[String]) -> Result<Option<(Separation, bool)>, SettingError> {
    if words.is_empty() {
        return Ok(None);
    }
    let (mut separation, mut per_cpu) = (Separation::None, false);
    for word in words {
        match word.as_str() {
            "none" => (separation, per_cpu) = (Separation::None, false),
            "lib" | "library" if separation == Separation::Kernel => {}
            "lib" | "library" => separation = Separation::Library,
            // As in OProfile, this includes libraries.
            "kernel" => separation = Separation::Kernel,
            "cpu" => per_cpu = true,
            "all" => (separation, per_cpu) = (Separation::Kernel, true),
            _ => return Err(SettingError::Separate(word.clone())),
        }
    }
    Ok(Some((separation, per_cpu)))
}

/// Where the samples would go to nobody.
pub const NO_READER: &str = "Nobody reads the event buffer: start a reader, opread for instance.";

/// What a person should do next, if there is something.
#[must_use]
pub fn hint(status: &Status) -> Option<String> {
    if !status.said_hello {
        return Some(format!(
            "No guest driver has said hello, so there are no samples: the guest may still boot; else check that its kernel has the agent, \
             and that both sides use the same device id ({id} here, oprofile.device-id= in the guest).",
            id = status.device_id
        ));
    }
    if status.reader == Reader::None {
        return Some(NO_READER.to_owned());
    }
    if !status.started {
        return Some("Profiling is stopped: opcontrol --start starts it.".to_owned());
    }
    None
}

/// The status for a person.
#[must_use]
pub fn status_text(status: &Status) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        // To a string: it does not fail.
        let _ = writeln!(text, "{name:<24}{value}");
    };
    line(
        "Profiling",
        if status.started { "running" } else { "stopped" },
    );
    let guest = match (&status.release, status.said_hello) {
        (Some(release), true) => format!("kernel {}", printable(release.as_bytes())),
        _ => "no driver has said hello".to_owned(),
    };
    line("Guest", &guest);
    let reader = match status.reader {
        Reader::None => "none",
        Reader::Collector => "the VM's collector",
        Reader::Client => "a client of the socket",
    };
    line("Reader", reader);
    if let Some(session) = &status.session {
        line(
            "Session",
            &printable(session.as_os_str().as_encoded_bytes()),
        );
    }
    let settings = &status.settings;
    line("Period", &format!("{} ns", settings.period_ns));
    line("Callgraph depth", &settings.backtrace_depth.to_string());
    line("Buffer size", &format!("{} words", settings.buffer_size));
    line(
        "Buffer watershed",
        &format!("{} words", settings.buffer_watershed),
    );
    line(
        "CPU buffer size",
        &format!("{} entries", settings.cpu_buffer_size),
    );
    line("vCPUs", &status.vcpus.len().to_string());
    for (index, vcpu) in status.vcpus.iter().enumerate() {
        let figures = format!("{} samples, {} lost in the guest", vcpu.received, vcpu.lost);
        line(&format!("  vCPU {index}"), &figures);
    }
    line("Account of samples", "");
    for (index, Counter { name, value }) in status.account.iter().enumerate() {
        if index <= status.ends || *value != 0 {
            line(
                &format!("  {}", printable(name.as_bytes())),
                &value.to_string(),
            );
        }
    }
    let verdict = match status.adds_up {
        true => "received = sum of all ends",
        false => "DOES NOT ADD UP",
    };
    line("", verdict);
    for Counter { name, value } in status.collector.iter().filter(|counter| counter.value != 0) {
        line(
            &format!("  {}", printable(name.as_bytes())),
            &value.to_string(),
        );
    }
    text
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use oprofile_control::status::{SettingsStatus, VcpuStatus};

    /// Of a machine with one vCPU whose samples are all the kernel's.
    pub(crate) fn status(received: u64) -> Status {
        let counter = |(name, value): (&str, u64)| Counter {
            name: name.to_owned(),
            value,
        };
        Status {
            said_hello: true,
            started: true,
            quiesced: false,
            reader: Reader::Collector,
            session: Some("/tmp/s".into()),
            device_id: 63,
            release: Some("tiny\u{1b}[2J".to_owned()),
            cpu_type: "timer".to_owned(),
            settings: SettingsStatus::default(),
            account: [
                ("received", received),
                ("kernel", received),
                ("lost_words", 0),
            ]
            .map(counter)
            .into(),
            adds_up: true,
            ends: 1,
            vcpus: vec![VcpuStatus::default()],
            collector: Vec::new(),
            clients: 1,
        }
    }

    fn words(text: &str) -> Vec<String> {
        text.split(',').map(str::to_owned).collect()
    }

    #[test]
    fn separations_are_oprofiles() {
        for (text, expected) in [
            ("none", (Separation::None, false)),
            ("lib", (Separation::Library, false)),
            ("kernel,lib", (Separation::Kernel, false)),
            ("lib,kernel,cpu", (Separation::Kernel, true)),
            ("all", (Separation::Kernel, true)),
            ("cpu,none", (Separation::None, false)),
        ] {
            assert_eq!(separation(&words(text)), Ok(Some(expected)), "{text}");
        }
        assert_eq!(separation(&[]), Ok(None));
        let refused = separation(&words("thread")).unwrap_err();
        assert!(refused.to_string().contains("thread"));
    }

    #[test]
    fn only_the_timer_is_an_event() {
        for event in ["default", "TIMER", "timer:0", "TIMER:100:0:1:1"] {
            assert_eq!(check_event(event), Ok(()), "{event}");
        }
        let refused = check_event("CPU_CLK_UNHALTED:100000").unwrap_err();
        assert!(refused.to_string().contains("--hz"));
    }

    #[test]
    fn status_escapes_what_the_guest_says() {
        let text = status_text(&status(7));
        assert!(!text.contains('\u{1b}'), "{text}");
        assert!(text.contains("received = sum of all ends"));
    }

    #[test]
    fn the_next_step_is_named() {
        assert_eq!(hint(&status(1)), None);
        let mut other = status(1);
        other.started = false;
        assert!(hint(&other).unwrap().contains("opcontrol --start"));
        other.reader = Reader::None;
        assert!(hint(&other).unwrap().contains("opread"));
        other.said_hello = false;
        assert!(hint(&other).unwrap().contains("device id (63"), "{other:?}");
    }
}
