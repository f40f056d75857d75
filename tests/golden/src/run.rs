//! Runs the command of a case.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use wait_timeout::ChildExt as _;

use crate::Error;
use crate::case::Case;
use crate::files::{self, Content};
use crate::stage::Stage;

/// Stands for the copy of the data.
pub const DIR: &str = "@DIR@";
/// Stands for the case's own folder.
pub const OUT: &str = "@OUT@";
/// How long a command may take.
const LIMIT: Duration = Duration::from_secs(120);

/// What came of a command.
#[derive(Clone, Debug)]
pub struct Actual {
    /// How it ended.
    pub end: End,
    /// What it printed; paths replaced by what stands for them, as in all of the following.
    pub stdout: String,
    /// Its messages.
    pub stderr: String,
    /// What it wrote below the case's folder, by name.
    pub files: BTreeMap<String, Content>,
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// With an exit code, or by a signal, which is negative.
    Code(i32),
    /// Not within the limit.
    TimeLimit,
    /// It could not be started.
    NotStarted(String),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "{code}"),
            Self::TimeLimit => write!(f, "no end within {} s", LIMIT.as_secs()),
            Self::NotStarted(why) => write!(f, "cannot run: {why}"),
        }
    }
}

/// Runs the tool of `binaries` that `case` names.
///
/// # Errors
/// When the case's folder cannot be prepared or read. A tool that cannot be started is a result.
pub fn run(case: &Case, binaries: &Path, stage: &Stage) -> Result<Actual, Error> {
    let folder = stage.case_folder()?;
    let out = folder.path();
    for (from, to) in &case.setup {
        let (from, to) = (stage.data().join(from), out.join(to));
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent).map_err(Error::io(parent))?;
        }
        fs::copy(&from, &to).map_err(Error::io(&to))?;
    }
    let names = Names {
        data: text(stage.data()),
        out: text(out),
        binaries: format!("{}/", text(binaries)),
    };
    let cwd = names.insert(&case.cwd);
    let mut words = case.argv.iter().map(|word| names.insert(word));
    let tool = words.next().unwrap_or_default();
    let mut command = Command::new(binaries.join(tool));
    command
        .args(words)
        .current_dir(&cwd)
        .env_clear()
        .envs(inherited())
        .envs([
            ("LC_ALL", "C"),
            ("TZ", "UTC"),
            ("HOME", &names.out),
            ("PWD", &cwd),
        ])
        .envs(
            case.env
                .iter()
                .map(|(name, value)| (name, names.insert(value))),
        )
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let (end, stdout, stderr) = execute(&mut command)
        .unwrap_or_else(|error| (End::NotStarted(error.to_string()), Vec::new(), Vec::new()));
    let files = files::written(out, &names)?;
    Ok(Actual {
        end,
        stdout: names.remove(&readable(&stdout)),
        stderr: names.remove(&readable(&stderr)),
        files,
    })
}

/// The only variables a tool shares with us.
fn inherited() -> impl Iterator<Item = (&'static str, OsString)> {
    let names = ["PATH", "LD_LIBRARY_PATH", "LD_PRELOAD"];
    names
        .into_iter()
        .filter_map(|name| Some((name, std::env::var_os(name)?)))
}

fn execute(command: &mut Command) -> io::Result<(End, Vec<u8>, Vec<u8>)> {
    let mut child = command.spawn()?;
    let stdout = child.stdout.take();
    let stderr = child.stderr.take();
    thread::scope(|scope| {
        let stdout = scope.spawn(|| read_all(stdout));
        let stderr = scope.spawn(|| read_all(stderr));
        let end = match child.wait_timeout(LIMIT)? {
            // One of both there is.
            Some(status) => End::Code(
                status
                    .code()
                    .or(status.signal().map(|signal| -signal))
                    .unwrap_or(-1),
            ),
            None => {
                child.kill()?;
                child.wait()?;
                End::TimeLimit
            }
        };
        let join = |thread: thread::ScopedJoinHandle<'_, io::Result<Vec<u8>>>| {
            thread
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("a reader panicked")))
        };
        Ok((end, join(stdout)?, join(stderr)?))
    })
}

fn read_all(stream: Option<impl Read>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(mut stream) = stream {
        stream.read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// The bytes as text; one that is not UTF-8 becomes `\xNN`.
fn readable(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

/// Paths, and what stands for them in a case.
#[derive(Debug)]
pub(crate) struct Names {
    data: String,
    out: String,
    /// With a slash at the end; nothing stands for it.
    binaries: String,
}

impl Names {
    fn insert(&self, text: &str) -> String {
        text.replace(DIR, &self.data).replace(OUT, &self.out)
    }

    pub(crate) fn remove(&self, text: &str) -> String {
        text.replace(&self.out, OUT)
            .replace(&self.data, DIR)
            .replace(&self.binaries, "")
    }

    /// A file's name below the case's folder. A tool may repeat the data's whole path there.
    pub(crate) fn file(&self, below: &str) -> String {
        below.replace(self.data.trim_start_matches('/'), DIR)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_no_text_are_shown() {
        assert_eq!(readable(b"a\xff\xc3\xa4"), "a\\xff\u{e4}");
    }

    #[test]
    fn paths_are_replaced_both_ways() {
        let names = Names {
            data: "/t/data".to_owned(),
            out: "/t/case1".to_owned(),
            binaries: "/b/".to_owned(),
        };
        assert_eq!(
            names.insert("-R @DIR@/root @OUT@"),
            "-R /t/data/root /t/case1"
        );
        assert_eq!(
            names.remove("/b/opreport: /t/data/root, /t/case1/x"),
            "opreport: @DIR@/root, @OUT@/x"
        );
        assert_eq!(names.file("a/t/data/root/x"), "a/@DIR@/root/x");
    }

    #[test]
    fn signals_are_told_from_exit_codes() {
        let end = |script: &str| {
            let mut command = Command::new("/bin/sh");
            command.args(["-c", script]);
            execute(&mut command).unwrap().0
        };
        assert_eq!(end("exit 3"), End::Code(3));
        assert_eq!(end("kill -SEGV $$"), End::Code(-11));
    }
}
