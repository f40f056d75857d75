//! The report tools: a program with 200 libraries of 5,400 functions, 10,000 offsets sampled in each.
//!
//! | module | what it does |
//! |---|---|
//! | `library` | a library as linkers make them |
//! | `debug_info` | its DWARF |
//! | `names` | its functions' names |
//! | `session` | the libraries and the profile, on disk |
//! | `peer` | the same sums by a loop over addr2line |

mod debug_info;
mod library;
mod names;
mod peer;
mod session;

use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;

use self::peer::Sums;
use self::session::{LIBRARIES, Session, TREES, library_name};
use super::{Failure, Job};
use crate::child::{Cost, Runner};
use crate::measure::{Figure, RATIO, time};

/// Name of the job.
pub const NAME: &str = "report";

/// Indices in [`TREES`].
const PLAIN: usize = 0;
const DEBUG_INFO: usize = 1;
const CPP: usize = 2;

/// How the tools are run.
#[derive(Clone, Debug)]
pub struct Tools {
    /// Directory with `opreport`, built for release.
    pub directory: PathBuf,
    /// Runs it.
    pub runner: Runner,
    /// Where the session is written and left; a temporary directory if there is none.
    pub session: Option<PathBuf>,
}

/// A report has not the sums that were sampled.
#[derive(Debug)]
struct WrongSum {
    library: usize,
    function: String,
    expected: Option<u64>,
    found: Option<u64>,
}

impl fmt::Display for WrongSum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (library, function) = (library_name(self.library), &self.function);
        let (expected, found) = (self.expected, self.found);
        write!(
            f,
            "{function} of {library} has {found:?} samples instead of {expected:?}"
        )
    }
}

impl std::error::Error for WrongSum {}

/// Writes the session; `opreport` and the loop over addr2line have found the sums in it.
pub fn prepare(tools: &Tools) -> Result<Box<dyn Job>, Failure> {
    let temporary = TempDir::new()?;
    let directory = match &tools.session {
        Some(directory) => directory.as_path(),
        None => temporary.path(),
    };
    let session = Session::write(directory)?;
    let on = match tools.runner.processors() {
        1 => "1 processor".to_owned(),
        processors => format!("{processors} processors"),
    };
    let list = "200 libraries, 2 million offsets";
    let job = Report {
        tools: tools.clone(),
        session,
        _temporary: temporary,
        figures: [
            Figure::new(format!("opreport, {list}, {on}"), "ms")
                .reach(20.0)
                .known("OProfile 20"),
            Figure::new(format!("opreport -l, {list}, {on}"), "ms")
                .reach(1_000.0)
                .known("OProfile 3600"),
            Figure::new("opreport -l, processor time", "ms"),
            Figure::new("opreport -l, memory", "MB")
                .reach(160.0)
                .known("OProfile 153"),
            Figure::new("opreport -l, images with debug information", "ms").reach(1_000.0),
            Figure::new(
                "opreport -l, processor time with ÷ without debug information",
                RATIO,
            )
            .reach(1.1),
            Figure::new("opreport -l, C++ names", "ms"),
            Figure::new("opreport -l, C++ names, memory", "MB").reach(160.0),
            Figure::new("loop over addr2line, symbols of 20 libraries × 10", "ms"),
            Figure::new(
                "loop over addr2line, debug information of 20 libraries × 10",
                "ms",
            ),
        ],
    };
    job.check()?;
    Ok(Box::new(job))
}

struct Report {
    tools: Tools,
    session: Session,
    /// Removed with the job.
    _temporary: TempDir,
    figures: [Figure; 10],
}

impl Report {
    /// Runs `opreport` with a tree of libraries.
    fn run(
        &self,
        tree: usize,
        arguments: &[&str],
        output: Option<&PathBuf>,
    ) -> Result<Cost, Failure> {
        let directory = &self.session.directory;
        let mut words = vec![OsString::from("--session-dir"), directory.into()];
        words.extend(["--root".into(), directory.join(TREES[tree].2).into()]);
        words.extend(arguments.iter().map(OsString::from));
        let program = self.tools.directory.join("opreport");
        self.tools
            .runner
            .run(&program, &words, output.map(PathBuf::as_path))
    }

    /// Compares what is to be measured with what was sampled.
    fn check(&self) -> Result<(), Failure> {
        for tree in [PLAIN, DEBUG_INFO, CPP] {
            let expected = self.expected(tree);
            let output = self.session.directory.join("report.txt");
            self.run(tree, &["-l", "-n", "-D", "none"], Some(&output))?;
            compare(&expected, &read(&fs::read_to_string(output)?)?)?;
            if tree != CPP {
                let mut part = expected;
                part.retain(|(library, _), _| library % usize::from(peer::PART) == 0);
                compare(&part, &peer::sums(&self.session, tree)?)?;
            }
        }
        Ok(())
    }

    /// The sums of all functions that have samples.
    fn expected(&self, tree: usize) -> Sums {
        let library = &self.session.libraries[tree];
        let mut sums = Sums::new();
        for (number, samples) in self.session.samples.iter().enumerate() {
            for (offset, count) in samples {
                let name = &library.functions[library.function_at(*offset)].name;
                *sums.entry((number, name.clone())).or_default() += count;
            }
        }
        sums
    }
}

/// The rows of a report without headings: count, percentage, library, function.
fn read(report: &str) -> Result<Sums, Failure> {
    let libraries: HashMap<String, usize> = (0..LIBRARIES)
        .map(|number| (library_name(number), number))
        .collect();
    let mut sums = Sums::new();
    for line in report.lines() {
        let mut words = line.split_whitespace();
        let (Some(count), Some(_), Some(library), Some(function), None) = (
            words.next(),
            words.next(),
            words.next(),
            words.next(),
            words.next(),
        ) else {
            return Err(format!("opreport prints: {line}").into());
        };
        let library = *libraries.get(library).ok_or("an unknown library")?;
        *sums.entry((library, function.to_owned())).or_default() += count.parse::<u64>()?;
    }
    Ok(sums)
}

fn compare(expected: &Sums, found: &Sums) -> Result<(), WrongSum> {
    let wrong = expected
        .keys()
        .chain(found.keys())
        .find(|key| expected.get(key) != found.get(key));
    match wrong {
        None => Ok(()),
        Some(key) => Err(WrongSum {
            library: key.0,
            function: key.1.clone(),
            expected: expected.get(key).copied(),
            found: found.get(key).copied(),
        }),
    }
}

impl Job for Report {
    fn name(&self) -> &'static str {
        NAME
    }

    fn round(&mut self) -> Result<(), Failure> {
        let summary = self.run(PLAIN, &[], None)?;
        let plain = self.run(PLAIN, &["-l"], None)?;
        let with_debug_info = self.run(DEBUG_INFO, &["-l"], None)?;
        let cpp = self.run(CPP, &["-l"], None)?;
        let [symbols, debug_info] = [PLAIN, DEBUG_INFO].map(|tree| {
            let (took, sums) = time(|| peer::sums(&self.session, tree));
            sums.map(|_| took / 1e6 * f64::from(peer::PART))
        });
        let values = [
            summary.wall_ms,
            plain.wall_ms,
            plain.cpu_ms,
            plain.peak_mb,
            with_debug_info.wall_ms,
            with_debug_info.cpu_ms / plain.cpu_ms,
            cpp.wall_ms,
            cpp.peak_mb,
            symbols?,
            debug_info?,
        ];
        for (figure, value) in self.figures.iter_mut().zip(values) {
            figure.add(value);
        }
        Ok(())
    }

    fn figures(&self) -> &[Figure] {
        &self.figures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_a_report_are_read_back() {
        let report = "5         62.5000  libmodule007.so          list_new\n3         37.5000  libmodule001.so          list_new\n";
        let sums = read(report).unwrap();
        assert_eq!(sums[&(7, "list_new".to_owned())], 5);
        assert!(read("5 62.5 libmodule007.so\n").is_err());
        let error = compare(&sums, &Sums::new()).unwrap_err();
        assert!(error.to_string().contains("instead of Some("), "{error}");
        assert!(compare(&sums, &sums).is_ok());
    }
}
