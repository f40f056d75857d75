//! OProfile's options that a virtual machine has no use for: each is answered with the reason and what to use instead.

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, CommandFactory as _, FromArgMatches};

/// An option of OProfile 0.9.9's `opcontrol`.
struct Foreign {
    long: &'static str,
    short: Option<char>,
    has_value: bool,
    why: &'static str,
}

const fn flag(long: &'static str, why: &'static str) -> Foreign {
    Foreign {
        long,
        short: None,
        has_value: false,
        why,
    }
}

const fn valued(long: &'static str, why: &'static str) -> Foreign {
    Foreign {
        has_value: true,
        ..flag(long, why)
    }
}

const FOREIGN: [Foreign; 9] = [
    flag(
        "deinit",
        "there is no module to unload. --shutdown ends the profiling, and the device goes with the VM",
    ),
    Foreign {
        short: Some('l'),
        ..flag(
            "list-events",
            "a virtual machine is sampled by its timer, there are no other events. --hz sets the rate",
        )
    },
    valued(
        "vmlinux",
        "the guest sends the symbols of its kernel by itself. Leave it out",
    ),
    valued(
        "kernel-range",
        "the guest tells where its kernel lies by itself. Leave it out",
    ),
    valued(
        "session-dir",
        "the VM was told where its session goes, by --oprofile-dev session=DIR. --save=NAME keeps it under a name",
    ),
    Foreign {
        short: Some('i'),
        ..valued(
            "image",
            "all programs of the guest are sampled. Choose among them afterwards: opreport image:NAME",
        )
    },
    valued(
        "xen",
        "every VM is profiled from its host, through a socket of its own. --socket=PATH names it",
    ),
    valued(
        "active-domains",
        "every VM is profiled through a socket of its own. --socket=PATH names it",
    ),
    valued(
        "s390hwsampbufsize",
        "a virtual machine is sampled by its timer. --cpu-buffer-size sets the buffers of a vCPU",
    ),
];

/// Makes the options known to the parser. No value of this type is ever more than that.
#[derive(Debug, Clone, Copy)]
pub struct WithoutMeaning;

impl Args for WithoutMeaning {
    fn augment_args(command: Command) -> Command {
        command.args(FOREIGN.iter().map(|option| {
            let arg = Arg::new(option.long).long(option.long).hide(true);
            let arg = match option.short {
                Some(short) => arg.short(short),
                None => arg,
            };
            match option.has_value {
                true => arg.action(ArgAction::Append),
                false => arg.action(ArgAction::SetTrue),
            }
        }))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for WithoutMeaning {
    fn from_arg_matches(_: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(Self)
    }

    fn update_from_arg_matches(&mut self, _: &ArgMatches) -> Result<(), clap::Error> {
        Ok(())
    }
}

/// What to say about the first such option of this command line, whatever is missing in it.
pub fn refusal<T: Into<std::ffi::OsString> + Clone>(
    words: impl IntoIterator<Item = T>,
) -> Option<String> {
    let command = super::Arguments::command().ignore_errors(true);
    let matches = command.try_get_matches_from(words).ok()?;
    let is_given =
        |option: &&Foreign| matches.value_source(option.long) == Some(ValueSource::CommandLine);
    let Foreign { long, why, .. } = FOREIGN.iter().find(is_given)?;
    Some(format!(
        "--{long} means nothing for a virtual machine: {why}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_told_in_a_line_with_what_to_use_instead() {
        for option in FOREIGN {
            let mut calls = vec![format!("--{}", option.long)];
            calls.extend(option.short.map(|short| format!("-{short}")));
            for call in calls {
                let words = ["opcontrol", &call, "1,2"];
                let words = &words[..2 + usize::from(option.has_value)];
                let told = refusal(words).unwrap_or_else(|| panic!("{words:?}"));
                assert!(
                    told.starts_with(&format!("--{} means", option.long)),
                    "{told}"
                );
                assert_eq!(told.lines().count(), 1);
            }
        }
    }

    #[test]
    fn options_with_a_meaning_are_not_refused() {
        assert_eq!(refusal(["opcontrol", "--socket=s", "--start"]), None);
        assert_eq!(
            refusal(["opcontrol", "--socket=--vmlinux", "--save=vmlinux"]),
            None
        );
    }
}
