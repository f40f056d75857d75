//! The shares of time that the guest's programs spend in their functions, by construction.
//!
//! The programs take their plans from here and the tests and the demo what they measure against, so the numbers
//! stand in one place. A [`Group`] is what shares are relative to: its members' samples together are 100 %, every
//! other sample (start-up, system calls, the scheduler) is none of its business.
#![no_std]

/// Where a function's code lies, as a report names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Image {
    /// A file, by its path in the guest.
    File(&'static str),
    /// An anonymous mapping: code without file and symbol.
    Anonymous,
    /// A kernel module, by its name.
    Module(&'static str),
    /// The kernel itself.
    Kernel,
}

/// One function's part of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// The program that the process ran, by its path in the guest; `None` for a kernel thread.
    pub application: Option<&'static str>,
    /// Where the function lies.
    pub image: Image,
    /// The function; empty where there are no symbols ([`Image::Anonymous`]).
    pub symbol: &'static str,
    /// Its part of the group's time in percent.
    pub percent: u32,
}

/// Functions whose shares add up to 100 %.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    /// For messages.
    pub name: &'static str,
    /// The functions, in the order in which the program's plan names them.
    pub shares: &'static [Share],
}

/// What `/bin/init` runs when it is given this name.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// Name, as in `init=NAME:DURATION`.
    pub name: &'static str,
    /// One line for people.
    pub about: &'static str,
    /// The programs that init starts, all at once, by path.
    pub programs: &'static [&'static str],
    /// Init starts each program once a vCPU instead of once.
    pub per_cpu: bool,
    /// What must come out.
    pub groups: &'static [&'static Group],
    /// Functions that must show, with shares that nobody fixed: a part of the demangled name each.
    pub expected: &'static [(Image, &'static str)],
}

const fn own(program: &'static str, symbol: &'static str, percent: u32) -> Share {
    Share {
        application: Some(program),
        image: Image::File(program),
        symbol,
        percent,
    }
}

const fn mapped(program: &'static str, image: Image, symbol: &'static str, percent: u32) -> Share {
    Share {
        application: Some(program),
        image,
        symbol,
        percent,
    }
}

/// The shared library.
pub const LIBWORK: &str = "/lib/libwork.so";
/// The module's file.
pub const MODULE_FILE: &str = "/lib/modules/modwork.ko";
/// The module's name, as the kernel lists it.
pub const MODULE_NAME: &str = "modwork";
/// What is mapped first at the trap's address.
pub const TRAP_A: &str = "/data/trap_a.bin";
/// What is mapped next at the trap's address.
pub const TRAP_B: &str = "/data/trap_b.bin";
/// What [`REAL`]'s program works on.
pub const CORPUS: &str = "/data/corpus.bin";

/// Three functions of one program.
pub const SHARES: Group = Group {
    name: "shares",
    shares: &[
        own("/bin/shares", "hot", 60),
        own("/bin/shares", "warm", 30),
        own("/bin/shares", "cool", 10),
    ],
};

/// One half in the library.
pub const SHARED_A: Group = Group {
    name: "shared_a",
    shares: &[
        own("/bin/shared_a", "own_a", 50),
        mapped("/bin/shared_a", Image::File(LIBWORK), "lib_mix", 50),
    ],
};

/// Three quarters in the library, at another address.
pub const SHARED_B: Group = Group {
    name: "shared_b",
    shares: &[
        own("/bin/shared_b", "own_b", 25),
        mapped("/bin/shared_b", Image::File(LIBWORK), "lib_mix", 45),
        mapped("/bin/shared_b", Image::File(LIBWORK), "lib_fold", 30),
    ],
};

/// Generated code in an anonymous mapping.
pub const JIT: Group = Group {
    name: "jit",
    shares: &[
        own("/bin/jit", "interpreted", 35),
        mapped("/bin/jit", Image::Anonymous, "", 65),
    ],
};

/// Module code that runs on behalf of a process.
pub const MODULE: Group = Group {
    name: "module",
    shares: &[
        own("/bin/modload", "user_part", 30),
        mapped("/bin/modload", Image::Module(MODULE_NAME), "mod_hot", 50),
        mapped("/bin/modload", Image::Module(MODULE_NAME), "mod_cool", 20),
    ],
};

/// Kernel threads.
pub const KTHREAD: Group = Group {
    name: "kthread",
    shares: &[
        Share {
            application: None,
            image: Image::Kernel,
            symbol: "kthread_hot",
            percent: 75,
        },
        Share {
            application: None,
            image: Image::Kernel,
            symbol: "kthread_cool",
            percent: 25,
        },
    ],
};

/// A kernel thread that works with interrupts off now and then.
pub const MASKED: Group = Group {
    name: "masked",
    shares: &[
        Share {
            application: None,
            image: Image::Kernel,
            symbol: "kthread_masked",
            percent: 30,
        },
        Share {
            application: None,
            image: Image::Kernel,
            symbol: "kthread_open",
            percent: 70,
        },
    ],
};

/// Processes of a few milliseconds.
pub const STORM: Group = Group {
    name: "storm",
    shares: &[
        own("/bin/short", "short_long", 70),
        own("/bin/short", "short_brief", 30),
    ],
};

/// One process that becomes five programs in turn.
pub const EXEC: Group = Group {
    name: "exec",
    shares: &[
        own("/bin/exec1", "stage_one", 20),
        own("/bin/exec2", "stage_two", 20),
        own("/bin/exec3", "stage_three", 20),
        own("/bin/exec4", "stage_four", 20),
        own("/bin/exec5", "stage_five", 20),
    ],
};

/// Two files, one after the other at the same address.
pub const TRAP: Group = Group {
    name: "trap",
    shares: &[
        mapped("/bin/trap", Image::File(TRAP_A), "trap_a", 50),
        mapped("/bin/trap", Image::File(TRAP_B), "trap_b", 50),
    ],
};

const REAL_CODE: Image = Image::File("/bin/realcode");

/// Functions of well-known crates that must show.
pub const REAL: &[(Image, &str)] = &[
    (REAL_CODE, "sha2::"),
    (REAL_CODE, "miniz_oxide::deflate"),
    (REAL_CODE, "miniz_oxide::inflate"),
    (REAL_CODE, "core::slice::sort"),
];

/// What `/bin/init` knows.
pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "idle",
        about: "nothing at all",
        programs: &[],
        per_cpu: false,
        groups: &[],
        expected: &[],
    },
    Scenario {
        name: "shares",
        about: "three functions of one program, on every vCPU",
        programs: &["/bin/shares"],
        per_cpu: true,
        groups: &[&SHARES],
        expected: &[],
    },
    Scenario {
        name: "library",
        about: "a shared library at different addresses in two processes",
        programs: &["/bin/shared_a", "/bin/shared_b"],
        per_cpu: false,
        groups: &[&SHARED_A, &SHARED_B],
        expected: &[],
    },
    Scenario {
        name: "jit",
        about: "generated code in an anonymous mapping",
        programs: &["/bin/jit"],
        per_cpu: false,
        groups: &[&JIT],
        expected: &[],
    },
    Scenario {
        name: "module",
        about: "code of a loaded kernel module",
        programs: &["/bin/modload"],
        per_cpu: false,
        groups: &[&MODULE],
        expected: &[],
    },
    Scenario {
        name: "kthread",
        about: "kernel threads",
        programs: &["/bin/kwork"],
        per_cpu: false,
        groups: &[&KTHREAD],
        expected: &[],
    },
    Scenario {
        name: "masked",
        about: "a kernel thread that has interrupts off for a part of its time",
        programs: &["/bin/kmasked"],
        per_cpu: false,
        groups: &[&MASKED],
        expected: &[],
    },
    Scenario {
        name: "storm",
        about: "a stream of processes of a few milliseconds",
        programs: &["/bin/storm"],
        per_cpu: true,
        groups: &[&STORM],
        expected: &[],
    },
    Scenario {
        name: "exec",
        about: "one process that becomes five programs in turn",
        programs: &["/bin/exec1"],
        per_cpu: false,
        groups: &[&EXEC],
        expected: &[],
    },
    Scenario {
        name: "trap",
        about: "two files, one after the other at the same address",
        programs: &["/bin/trap"],
        per_cpu: true,
        groups: &[&TRAP],
        expected: &[],
    },
    Scenario {
        name: "real",
        about: "a hash, a compressor and a sort from well-known crates",
        programs: &["/bin/realcode"],
        per_cpu: false,
        groups: &[],
        expected: REAL,
    },
    Scenario {
        name: "mix",
        about: "all of it at once",
        programs: &[
            "/bin/shares",
            "/bin/shared_a",
            "/bin/shared_b",
            "/bin/jit",
            "/bin/modload",
            "/bin/kwork",
            "/bin/storm",
            "/bin/exec1",
            "/bin/trap",
            "/bin/realcode",
        ],
        per_cpu: false,
        groups: &[
            &SHARES, &SHARED_A, &SHARED_B, &JIT, &MODULE, &KTHREAD, &STORM, &EXEC, &TRAP,
        ],
        expected: REAL,
    },
];

/// The scenario of that name.
#[must_use]
pub fn scenario(name: &str) -> Option<&'static Scenario> {
    SCENARIOS.iter().find(|scenario| scenario.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_of_a_group_add_up_to_a_hundred() {
        for scenario in SCENARIOS {
            for group in scenario.groups {
                let sum: u32 = group.shares.iter().map(|share| share.percent).sum();
                assert_eq!(sum, 100, "{}", group.name);
            }
        }
    }

    #[test]
    fn a_symbol_stands_for_one_share_of_an_application() {
        let all = || {
            SCENARIOS
                .last()
                .unwrap()
                .groups
                .iter()
                .flat_map(|g| g.shares)
        };
        for share in all() {
            let alike = |other: &&Share| {
                (other.application, other.image, other.symbol)
                    == (share.application, share.image, share.symbol)
            };
            assert_eq!(all().filter(alike).count(), 1, "{share:?}");
        }
    }

    #[test]
    fn names_of_scenarios_are_unique() {
        for wanted in SCENARIOS {
            let alike = SCENARIOS.iter().filter(|s| s.name == wanted.name).count();
            assert_eq!(alike, 1, "{}", wanted.name);
            assert!(scenario(wanted.name).is_some());
        }
    }
}
