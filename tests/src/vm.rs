//! Runs `oprofile-vmm` and looks at what it leaves.

use std::env;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::account::Account;
use crate::child::OwnedChild;

/// How long a virtual machine may run before it counts as hung. The longest scenario takes 32 s.
const LIMIT: Duration = Duration::from_secs(90);

/// The same for a Debian guest: it boots for 15 s in the lab, and its programs' ends come late on one emulated processor.
const DEBIAN_LIMIT: Duration = Duration::from_secs(180);

/// How often a machine is started in the lab when the emulation fails it. The emulated processor sometimes delivers an
/// interrupt twice, the second time where interrupts are off, which no kernel survives; docs/lab.md has the evidence.
const LAB_ATTEMPTS: u32 = 4;

/// How many of them may hang. A crash costs seconds, a hang its whole limit, and twice it must fit into a test's
/// (`TEST_LIMIT` in xtask/src/kvm_tests.rs); what hangs a guest twice is hardly the emulation.
const LAB_HANGS: u32 = 2;

/// Exit codes of a guest that such an interrupt can have ended: reset by its panic handler, triple fault, KVM's internal error.
const CRASHES: [i32; 3] = [10, 11, 12];

/// Directory of the programs that a person runs: `OPROFILE_BIN`, which `cargo xtask test` sets.
///
/// # Panics
/// When it is not set.
#[must_use]
pub fn bin_dir() -> PathBuf {
    env::var_os("OPROFILE_BIN").map(PathBuf::from).expect(
        "OPROFILE_BIN names the directory of the release programs; `cargo xtask test` sets it",
    )
}

/// A virtual machine that boots the embedded tiny kernel, and has not been started yet.
#[derive(Clone, Debug)]
pub struct Vm {
    arguments: Vec<String>,
    cmdline: String,
    device: Option<Vec<String>>,
    session: Option<PathBuf>,
    without_session: bool,
    has_keyboard: bool,
    limit: Duration,
}

/// A file that `cargo xtask test` names by a variable.
///
/// # Panics
/// When it does not.
#[must_use]
pub fn file_of(variable: &str) -> String {
    env::var(variable)
        .unwrap_or_else(|_| panic!("{variable} names a file; `cargo xtask test` sets it"))
}

impl Vm {
    /// A Debian guest with the agent's module, whose init runs `part` of its programs (or all, when empty) for some seconds.
    ///
    /// # Panics
    /// When kernel and initrd are not named by `OPROFILE_LINUX_KERNEL` and `OPROFILE_LINUX_INITRD`.
    #[must_use]
    pub fn debian(part: &str, seconds: u32) -> Self {
        Self::debian_of(
            &file_of("OPROFILE_LINUX_KERNEL"),
            &file_of("OPROFILE_LINUX_INITRD"),
            part,
            seconds,
        )
    }

    /// The same with another kernel, as `cargo xtask guest --kernel` names it.
    ///
    /// # Panics
    /// When the guests' directory is not named by `OPROFILE_LINUX`.
    #[must_use]
    pub fn debian_on(kernel: &str, part: &str, seconds: u32) -> Self {
        let directory = Path::new(&file_of("OPROFILE_LINUX")).join(kernel);
        let path = |name| directory.join(name).display().to_string();
        Self::debian_of(&path("vmlinuz"), &path("initramfs.cpio"), part, seconds)
    }

    /// The same with another initrd.
    ///
    /// # Panics
    /// When the kernel is not named by `OPROFILE_LINUX_KERNEL`.
    #[must_use]
    pub fn debian_from(initrd: &str, part: &str, seconds: u32) -> Self {
        Self::debian_of(&file_of("OPROFILE_LINUX_KERNEL"), initrd, part, seconds)
    }

    fn debian_of(kernel: &str, initrd: &str, part: &str, seconds: u32) -> Self {
        let only = match part {
            "" => String::new(),
            part => format!(" only={part}"),
        };
        Self {
            cmdline: format!("console=ttyS0 quiet panic=-1 tsc=reliable mix={seconds}{only}"),
            limit: DEBIAN_LIMIT,
            ..Self::unconfigured()
        }
        .argument(&format!("--kernel={kernel}"))
        .argument(&format!("--initrd={initrd}"))
        .argument("--memory=768M")
    }

    /// A machine whose init runs `scenario`, `NAME:MILLISECONDS`, with the profiling device.
    #[must_use]
    pub fn new(scenario: &str) -> Self {
        Self {
            cmdline: format!("init={scenario}"),
            ..Self::unconfigured()
        }
    }

    /// A machine with the profiling device and no word to its kernel.
    #[must_use]
    pub fn unconfigured() -> Self {
        Self {
            arguments: Vec::new(),
            cmdline: String::new(),
            device: Some(Vec::new()),
            session: None,
            without_session: false,
            has_keyboard: false,
            limit: LIMIT,
        }
    }

    /// How long it may run before it counts as hung.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Number of vCPUs.
    #[must_use]
    pub fn cpus(self, cpus: u32) -> Self {
        self.argument("--cpus").argument(&cpus.to_string())
    }

    /// One more word on the command line of the VMM.
    #[must_use]
    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// One more word on the kernel's command line.
    #[must_use]
    pub fn cmdline(mut self, word: &str) -> Self {
        self.cmdline.push(' ');
        self.cmdline.push_str(word);
        self
    }

    /// One more `key=value` for `--oprofile-dev`.
    #[must_use]
    pub fn device(mut self, option: &str) -> Self {
        self.device.get_or_insert_default().push(option.to_owned());
        self
    }

    /// No profiling device.
    #[must_use]
    pub fn without_device(mut self) -> Self {
        self.device = None;
        self
    }

    /// The profiling device without a session; `device` must give it a socket.
    #[must_use]
    pub fn without_session(mut self) -> Self {
        self.without_session = true;
        self
    }

    /// Input for the console, see [`Running::type_text`]; without it there is none.
    #[must_use]
    pub fn keyboard(mut self) -> Self {
        self.has_keyboard = true;
        self
    }

    /// A session directory of the test's own instead of a fresh one.
    #[must_use]
    pub fn session(mut self, session: &Path) -> Self {
        self.session = Some(session.to_owned());
        self
    }

    /// Starts it.
    ///
    /// # Panics
    /// When the program cannot be started.
    #[must_use]
    pub fn start(self) -> Running {
        let temporary = TempDir::new().expect("a temporary directory");
        let session = self
            .session
            .unwrap_or_else(|| temporary.path().join("session"));
        let mut command = Command::new(bin_dir().join("oprofile-vmm"));
        command
            .arg("run")
            .args(&self.arguments)
            .args(["--cmdline", &self.cmdline]);
        if let Some(options) = &self.device {
            let session = format!("session={}", session.display());
            let mut keys = options.clone();
            if !self.without_session {
                keys.insert(0, session);
            }
            command.args(["--oprofile-dev", &keys.join(",")]);
        }
        let child = command
            .stdin(match self.has_keyboard {
                true => Stdio::piped(),
                false => Stdio::null(),
            })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let mut child = OwnedChild::from(child);
        let (sender, lines) = mpsc::channel();
        let stdout = child.stdout.take().expect("piped");
        let reader = thread::spawn(move || {
            for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).trim_end().to_owned();
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let mut stderr = child.stderr.take().expect("piped");
        let messages = thread::spawn(move || {
            let mut bytes = Vec::new();
            stderr.read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        });
        Running {
            keyboard: child.stdin.take(),
            child,
            lines,
            seen: Vec::new(),
            reader,
            messages,
            session,
            temporary,
            limit: self.limit,
            deadline: Instant::now() + self.limit,
        }
    }

    /// Starts it and waits for its end. In the lab, and only there, a guest that crashes or hangs is started again, a few times.
    ///
    /// # Panics
    /// When it does not end in time.
    #[must_use]
    pub fn run(self) -> Ended {
        run_to_end(|| Ok((self.clone().start().outcome()?, ()))).0
    }
}

/// Lets `run` start a virtual machine and wait for its end. In the lab, and only there, again when the guest crashes or hangs, a few
/// times.
///
/// # Panics
/// When it does not end in time.
pub(crate) fn run_to_end<T>(mut run: impl FnMut() -> Result<(Ended, T), String>) -> (Ended, T) {
    let in_lab = env::var_os("OPROFILE_KVM").is_some_and(|kvm| kvm == "lab");
    let (attempts, mut hangs) = match in_lab {
        true => (LAB_ATTEMPTS, LAB_HANGS),
        false => (1, 1),
    };
    let mut attempt = 1;
    loop {
        let why = match run() {
            Ok((ended, rest)) if attempt == attempts || !ended.has_crashed() => {
                return (ended, rest);
            }
            Ok((ended, _)) => format!("the guest crashed\n{}", ended.output()),
            Err(hung) => {
                hangs -= 1;
                assert!(attempt < attempts && hangs > 0, "{hung}");
                hung
            }
        };
        eprintln!("attempt {attempt}: {why}");
        attempt += 1;
    }
}

/// A virtual machine that runs.
#[derive(Debug)]
pub struct Running {
    child: OwnedChild,
    keyboard: Option<ChildStdin>,
    lines: Receiver<String>,
    seen: Vec<String>,
    reader: JoinHandle<()>,
    messages: JoinHandle<io::Result<String>>,
    session: PathBuf,
    temporary: TempDir,
    limit: Duration,
    deadline: Instant,
}

impl Running {
    /// Waits until the guest's console shows a line that contains `text`.
    ///
    /// # Panics
    /// When it ends or runs out of time before.
    pub fn wait_for_line(&mut self, text: &str) {
        loop {
            let left = self.deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    let found = line.contains(text);
                    self.seen.push(line);
                    if found {
                        return;
                    }
                }
                Err(error) => {
                    panic!("no {text:?} on the console ({error}): {:#?}", self.seen);
                }
            }
        }
    }

    /// Types at the guest's console.
    ///
    /// # Panics
    /// When the machine has no keyboard or is gone.
    pub fn type_text(&mut self, text: &str) {
        let keyboard = self.keyboard.as_mut().expect("there is a keyboard");
        keyboard
            .write_all(text.as_bytes())
            .unwrap_or_else(|error| panic!("cannot type {text:?}: {error}"));
    }

    /// Process id of the VMM.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal, by name.
    ///
    /// # Panics
    /// When `kill` cannot be run.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .args(["-s", name, &self.pid().to_string()])
            .status()
            .expect("kill runs");
        assert!(status.success(), "kill -s {name}: {status}");
    }

    /// Whether it has ended or is out of time.
    pub(crate) fn is_over(&mut self) -> bool {
        let status = self.child.try_wait().expect("the VMM is our child");
        status.is_some() || Instant::now() >= self.deadline
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it does not end in time; it is killed then.
    #[must_use]
    pub fn wait(self) -> Ended {
        self.outcome().unwrap_or_else(|hung| panic!("{hung}"))
    }

    /// Waits for its end; the error tells what was seen of a machine that did not end in time and was killed.
    pub(crate) fn outcome(mut self) -> Result<Ended, String> {
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("the VMM is our child") {
                break Some(status);
            }
            if Instant::now() >= self.deadline {
                let _ = self.child.kill();
                let _ = self.child.wait();
                break None;
            }
            thread::park_timeout(Duration::from_millis(20));
        };
        let _ = self.reader.join();
        self.seen.extend(self.lines.try_iter());
        let stdout = self.seen.join("\n");
        let stderr = self
            .messages
            .join()
            .expect("the reader of stderr does not panic")
            .expect("stderr can be read");
        let Some(status) = status else {
            return Err(format!(
                "not within {:?}\n--- console\n{stdout}\n--- stderr\n{stderr}",
                self.limit
            ));
        };
        Ok(Ended {
            status,
            stdout,
            stderr,
            session: self.session,
            _temporary: self.temporary,
        })
    }
}

/// What a virtual machine left.
#[derive(Debug)]
pub struct Ended {
    /// How the VMM ended.
    pub status: ExitStatus,
    /// The guest's console.
    pub stdout: String,
    /// The VMM's messages.
    pub stderr: String,
    /// The session directory.
    pub session: PathBuf,
    _temporary: TempDir,
}

impl Ended {
    fn has_crashed(&self) -> bool {
        self.status
            .code()
            .is_some_and(|code| CRASHES.contains(&code))
    }

    /// Everything that it said, for messages.
    #[must_use]
    pub fn output(&self) -> String {
        format!("--- console\n{}\n--- stderr\n{}", self.stdout, self.stderr)
    }

    /// Checks the exit code.
    ///
    /// # Panics
    /// When it is another one.
    #[must_use]
    pub fn expect_code(self, code: i32) -> Self {
        assert_eq!(self.status.code(), Some(code), "{}", self.output());
        self
    }

    /// The session's account, checked to add up.
    #[must_use]
    pub fn account(&self) -> Account {
        let account = Account::read(&self.session);
        account.assert_adds_up();
        account
    }

    /// What `opreport` prints of the session with these arguments.
    ///
    /// # Panics
    /// When it fails.
    #[must_use]
    pub fn opreport(&self, arguments: &[&str]) -> String {
        let output = Command::new(bin_dir().join("opreport"))
            .arg(format!("--session-dir={}", self.session.display()))
            .args(arguments)
            .output()
            .expect("opreport runs");
        assert!(
            output.status.success(),
            "opreport {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}
