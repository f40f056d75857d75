//! The lab: an emulated machine with real KVM, for where there is none.
//!
//! QEMU emulates an AMD processor with SVM; a Debian kernel in it loads `kvm_amd`; the host's root,
//! read-only over 9p, makes every program of the host usable there. See `docs/lab.md`.

pub mod fetch;
mod initramfs;
pub mod modules;
mod qemu;
mod script;

use std::fs::{self, File, TryLockError};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::machine::{Finished, Job, shown};
use crate::repo;
use crate::step::{Step, note};
use crate::tail;

pub use fetch::FetchError;
pub use modules::ModuleError;

/// How much of the console an error shows.
const CONSOLE_LINES: usize = 20;
/// Prefix of the directories that single runs use.
const RUN_PREFIX: &str = "run-";

/// Why the lab could not run a command to its end.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// A part is missing and could not be fetched.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The kernel's modules are not as expected.
    #[error("Cannot gather the lab kernel's modules")]
    Modules(#[from] ModuleError),
    /// A file cannot be read or written.
    #[error("Cannot use {}", path.display())]
    File {
        /// The file or directory.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The lab hides this path under a mount of its own.
    #[error("The lab cannot show {} to the command: it has its own {mount}", path.display())]
    Hidden {
        /// The path that is needed.
        path: PathBuf,
        /// What hides it.
        mount: &'static str,
    },
    /// QEMU does not start.
    #[error("Cannot run QEMU")]
    Qemu(#[source] io::Error),
    /// The time limit ended the machine.
    #[error("The time limit of {} s ended the lab", .0.as_secs())]
    TimeLimit(Duration),
    /// The machine gave no sign of life any more.
    #[error("The lab froze and was ended: its emulated processor stopped taking interrupts")]
    Frozen,
    /// The machine went off without telling an exit code.
    #[error("The lab ended without an exit code from the command; its last words:\n{0}")]
    NoExitCode(String),
}

impl LabError {
    fn file(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { path, source }
    }
}

/// Processors of the lab unless asked otherwise. With more, QEMU (7.2 and 10.0 were tried) now and then delivers an interrupt of a guest
/// twice, which crashes it; docs/lab.md says why.
const CPUS: u32 = 1;

/// A lab that is set up, ready to boot any number of times, also at once.
#[derive(Debug)]
pub struct Lab {
    qemu: PathBuf,
    kernel: fetch::Kernel,
    initramfs: PathBuf,
    /// Processors of the machine.
    pub cpus: u32,
    /// Its memory in MiB.
    pub memory_mib: u32,
    /// Whether the kernel's console is shown.
    pub verbose: bool,
}

impl Lab {
    /// Fetches what is missing and builds the initramfs.
    pub fn prepare() -> Result<Self, LabError> {
        let cache = repo::lab_dir();
        fs::create_dir_all(&cache).map_err(LabError::file(&cache))?;
        let _lock = lock(&cache.join("lock"))?;
        sweep(&cache);
        let qemu = fetch::qemu()?;
        let busybox = fetch::busybox(&cache)?;
        let kernel = fetch::kernel(&cache)?;
        let initramfs = build_initramfs(&cache, &busybox, &kernel)?;
        Ok(Self {
            qemu,
            kernel,
            initramfs,
            cpus: CPUS,
            memory_mib: 2048,
            verbose: false,
        })
    }

    /// Boots the lab, runs `job` in it, and gives back its exit code.
    pub fn run(&self, job: &Job) -> Result<Finished, LabError> {
        visible(job)?;
        note(format_args!(
            "lab: Linux {} on {} emulated CPUs, {} MiB, {} s at most; /mnt is {} here",
            self.kernel.version,
            self.cpus,
            self.memory_mib,
            job.limit.as_secs(),
            shown(&job.share),
        ));
        let cache = repo::lab_dir();
        let scratch = tempfile::Builder::new()
            .prefix(&format!("{RUN_PREFIX}{}-", std::process::id()))
            .tempdir_in(&cache)
            .map_err(LabError::file(&cache))?;
        let ctl = scratch.path().join("ctl");
        let console = scratch.path().join("console");
        let log = scratch.path().join("qemu");
        fs::create_dir(&ctl).map_err(LabError::file(&ctl))?;
        let run = ctl.join("run.sh");
        fs::write(&run, script::render(job, std::env::vars_os())).map_err(LabError::file(&run))?;

        let hardware = qemu::Hardware {
            qemu: &self.qemu,
            kernel: &self.kernel.image,
            initramfs: &self.initramfs,
            ctl: &ctl,
            share: &job.share,
            console: &console,
            log: &log,
            slot: job.slot,
            cpus: self.cpus,
            memory_mib: self.memory_mib,
            verbose: self.verbose,
        };
        let ended = qemu::run(&hardware, job.limit).map_err(LabError::Qemu)?;
        let words = || {
            let read =
                |path| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
            last_words(&read(&log), &read(&console))
        };
        if self.verbose {
            eprint!(
                "{}",
                String::from_utf8_lossy(&fs::read(&console).unwrap_or_default())
            );
        }
        if ended.status.is_none() {
            return Err(match qemu::is_frozen(&ctl) {
                true => LabError::Frozen,
                false => LabError::TimeLimit(job.limit),
            });
        }
        let answer = fs::read_to_string(ctl.join("exit-code")).unwrap_or_default();
        let code = parse_code(&answer).ok_or_else(|| LabError::NoExitCode(words()))?;
        Ok(Finished { code })
    }
}

/// What tells best why the machine went down: a panic from its first line on, else the end of all.
fn last_words(log: &str, console: &str) -> String {
    match console.find("Kernel panic") {
        Some(start) => console[start..]
            .lines()
            .take(CONSOLE_LINES)
            .collect::<Vec<_>>()
            .join("\n"),
        None => tail(&[log, console].concat(), CONSOLE_LINES),
    }
}

/// What the init script wrote to `exit-code`.
fn parse_code(answer: &str) -> Option<u8> {
    answer.strip_suffix('\n')?.parse().ok()
}

/// The lab mounts things of its own over parts of the host's tree: the job must not need those.
fn visible(job: &Job) -> Result<(), LabError> {
    let program = job.command.first().map(PathBuf::from).unwrap_or_default();
    for path in [&job.directory, &program] {
        for mount in ["/mnt", "/run", "/dev/shm"] {
            if path.starts_with(mount) && *path != job.share {
                return Err(LabError::Hidden {
                    path: path.clone(),
                    mount,
                });
            }
        }
    }
    Ok(())
}

/// Waits for the lock that guards the set-up.
fn lock(path: &Path) -> Result<File, LabError> {
    let file = File::create(path).map_err(LabError::file(path))?;
    match file.try_lock() {
        Ok(()) => return Ok(file),
        Err(TryLockError::WouldBlock) => note("lab: waiting for another run to set it up"),
        Err(TryLockError::Error(source)) => return Err(LabError::file(path)(source)),
    }
    file.lock().map_err(LabError::file(path))?;
    Ok(file)
}

/// Removes what killed runs left behind; a run's directory carries its process id.
fn sweep(cache: &Path) {
    let Ok(entries) = fs::read_dir(cache) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let pid = name
            .to_str()
            .and_then(|name| name.strip_prefix(RUN_PREFIX))
            .and_then(|name| name.split('-').next())
            .and_then(|pid| pid.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            // Only litter: the next run tries again.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// The initramfs for this kernel and this init script, built now if need be.
fn build_initramfs(
    cache: &Path,
    busybox: &Path,
    kernel: &fetch::Kernel,
) -> Result<PathBuf, LabError> {
    let mut fingerprint = DefaultHasher::new();
    (initramfs::INIT, &kernel.version, modules::WANTED).hash(&mut fingerprint);
    let path = cache.join(format!("initramfs-{:016x}.cpio", fingerprint.finish()));
    if path.exists() {
        return Ok(path);
    }
    let step = Step::begin("lab: packing an initramfs (busybox and the kernel's modules)");
    let busybox = fs::read(busybox).map_err(LabError::file(busybox))?;
    let modules = modules::gather(&kernel.modules, &modules::WANTED)?;
    let unfinished = path.with_extension("unfinished");
    File::create(&unfinished)
        .and_then(|file| initramfs::write(io::BufWriter::new(file), &busybox, &modules))
        .and_then(|()| fs::rename(&unfinished, &path))
        .map_err(LabError::file(&path))?;
    step.done();
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_exit_code_counts() {
        assert_eq!(parse_code("0\n"), Some(0));
        assert_eq!(parse_code("137\n"), Some(137));
        assert_eq!(parse_code(""), None);
        assert_eq!(parse_code("1"), None, "cut off while it was written");
        assert_eq!(parse_code("300\n"), None);
    }

    #[test]
    fn a_job_below_a_mount_of_the_lab_is_refused() {
        let mut job = Job::new(["/mnt/tool"]);
        assert!(matches!(
            visible(&job),
            Err(LabError::Hidden { mount: "/mnt", .. })
        ));
        job.command = vec!["/bin/true".into()];
        job.directory = "/run/user".into();
        assert!(matches!(
            visible(&job),
            Err(LabError::Hidden { mount: "/run", .. })
        ));
    }

    #[test]
    fn a_panic_is_shown_from_its_first_line() {
        let console = "booting\nKernel panic - not syncing\nCall Trace:\n";
        assert_eq!(
            last_words("warning\n", console),
            "Kernel panic - not syncing\nCall Trace:"
        );
        assert_eq!(last_words("no such CPU\n", ""), "no such CPU");
    }
}
