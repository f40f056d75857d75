//! What requests do: the control files, the collector, the device.

use std::path::PathBuf;
use std::sync::Arc;

use oprofile_control::message::Separation as Filing;
use oprofile_control::message::{Command, CookieAnswer, Failure, FailureKind};
use oprofile_control::status::{Counter, Reader, SettingsStatus, Status, VcpuStatus};
use oprofile_device::control_files::{Caller, ControlError, ControlFiles, DeviceProfiler};
use oprofile_device::{CookieTarget, Device, EventReader};
use oprofile_session::{CollectorError, Separation};
use serde_json::{Value, json};
use vm_memory::GuestMemoryMmap;

use super::super::collector::{CollectorHandle, Order};

/// Bytes of a control file that a read asks for: a number, or the type of processor.
const READ_BYTES: u64 = 4096;

/// The file that is read by [`Command::Events`] only.
const BUFFER: &str = "buffer";

const NS_PER_SECOND: u64 = 1_000_000_000;

pub(super) type Files = ControlFiles<DeviceProfiler<GuestMemoryMmap>>;

/// What is behind the socket.
#[derive(Debug)]
pub struct Control {
    device: Arc<Device<GuestMemoryMmap>>,
    files: Files,
    device_id: u32,
    session: Option<(PathBuf, CollectorHandle)>,
    /// Sizes at the last open; others take effect at the next start.
    opened: [u64; 3],
    /// The collector has been told to give the event buffer up.
    restarting: bool,
}

/// What is to be done when the collector has obeyed.
#[derive(Clone, Copy, Debug)]
pub(super) enum After {
    /// Nothing.
    Answer,
    /// The event buffer is opened again with its new size, given back, and profiling started.
    Restart,
}

/// How a request goes on.
#[derive(Debug)]
pub(super) enum Next {
    /// It is done.
    Answer(Value),
    /// When the guest has handed in what it had.
    Quiesce,
    /// When the collector has obeyed.
    Order(Order, After),
    /// The client is the event buffer's reader.
    Read(EventReader),
}

impl Control {
    /// The control files of `device`, under the virtio device id `device_id`.
    #[must_use]
    pub fn new(device: Arc<Device<GuestMemoryMmap>>, device_id: u32) -> Self {
        Self {
            files: DeviceProfiler::control_files(Arc::clone(&device)),
            device,
            device_id,
            session: None,
            opened: [0; 3],
            restarting: false,
        }
    }

    /// Opens the event buffer.
    ///
    /// # Errors
    /// When it is open, or cannot have the sizes that were written.
    pub fn open(&mut self) -> Result<EventReader, ControlError> {
        self.files.open_event_buffer(Caller::Administrator)?;
        self.opened = self.sizes();
        let reader = self.files.profiler_mut().take_reader();
        reader.ok_or(ControlError::Interrupted)
    }

    /// The session in `directory` has the collector as the event buffer's reader, from [`Control::open`] on.
    pub fn set_session(&mut self, directory: PathBuf, collector: CollectorHandle) {
        self.session = Some((directory, collector));
    }

    /// Starts profiling.
    ///
    /// # Errors
    /// When the event buffer is not open.
    pub fn start(&mut self) -> Result<(), ControlError> {
        self.files.start()
    }

    pub(super) const fn device(&self) -> &Arc<Device<GuestMemoryMmap>> {
        &self.device
    }

    /// The reader that was a client is gone.
    pub(super) fn close(&mut self) {
        // It was open.
        let _ = self.files.close_event_buffer();
    }

    fn sizes(&self) -> [u64; 3] {
        let values = self.files.life_cycle().values();
        [
            values.buffer_size,
            values.buffer_watershed,
            values.cpu_buffer_size,
        ]
    }

    fn write_sizes(&mut self, sizes: [u64; 3]) {
        let names = ["buffer_size", "buffer_watershed", "cpu_buffer_size"];
        for (name, size) in names.into_iter().zip(sizes) {
            // Stopped, so that they can be written.
            let _ = self.files.write(name, 0, size.to_string().as_bytes());
        }
    }

    /// Begins what `command` asks for; `clients` are connected.
    pub(super) fn begin(&mut self, command: Command, clients: usize) -> Result<Next, Failure> {
        Ok(match command {
            Command::Status => Next::Answer(self.status(clients)),
            Command::List => {
                let entry = |entry: oprofile_device::control_files::FileEntry| json!({"path": entry.path, "mode": entry.mode});
                Next::Answer(self.files.list().into_iter().map(entry).collect())
            }
            Command::Read { path } => {
                not_the_buffer(&path)?;
                let text = self.files.read(&path, 0, READ_BYTES).map_err(refused)?;
                Next::Answer(json!({"text": String::from_utf8_lossy(&text)}))
            }
            Command::Write { path, text } => {
                not_the_buffer(&path)?;
                let written = self.files.write(&path, 0, text.as_bytes());
                Next::Answer(
                    json!({"written": written.map_err(|error| self.refused_write(error))?}),
                )
            }
            Command::Start => self.begin_start()?,
            Command::Stop => {
                self.files.stop();
                Next::Quiesce
            }
            Command::Dump => {
                self.device.dump();
                match &self.session {
                    Some(_) => Next::Order(Order::Flush, After::Answer),
                    None => Next::Answer(json!({"session": false})),
                }
            }
            Command::Reset => self.order(Order::Reset)?,
            Command::Save { name } => self.order(Order::Save(name))?,
            Command::Separate {
                separation,
                per_cpu,
            } => {
                let separation = match separation {
                    Filing::None => Separation::None,
                    Filing::Library => Separation::Library,
                    Filing::Kernel => Separation::Kernel,
                };
                self.order(Order::Separate(separation, per_cpu))?
            }
            Command::Rate { hz } => {
                let period = NS_PER_SECOND.checked_div(hz).unwrap_or(0);
                self.device.set_period_ns(period).map_err(|error| {
                    let message = format!("{hz} samples a second are not possible: {error}");
                    Failure::new(FailureKind::Value, message)
                })?;
                Next::Answer(json!({"period_ns": period}))
            }
            Command::Cookie { cookie } => Next::Answer(self.cookie(cookie)),
            Command::Events => Next::Read(self.open().map_err(|error| self.refused_reader(error))?),
        })
    }

    /// An order to the collector, behind everything that has been sampled.
    fn order(&self, order: Order) -> Result<Next, Failure> {
        if self.session.is_none() {
            let message =
                "This VM writes no session: start it with --oprofile-dev session=DIR,socket=PATH";
            return Err(Failure::new(FailureKind::NoSession, message));
        }
        self.device.dump();
        Ok(Next::Order(order, After::Answer))
    }

    fn begin_start(&mut self) -> Result<Next, Failure> {
        if self.restarting {
            let message = "Another client is starting the profiler";
            return Err(Failure::new(FailureKind::ReaderBusy, message));
        }
        let resize = !self.files.life_cycle().is_started() && self.sizes() != self.opened;
        if resize && self.session.is_some() {
            self.restarting = true;
            return Ok(Next::Order(Order::Release, After::Restart));
        }
        self.start().map_err(|error| self.refused_start(error))?;
        Ok(Next::Answer(json!({})))
    }

    /// Has the collector obey `order`, and calls `done` on its thread when it has. `done` is dropped uncalled when it has ended.
    pub(super) fn send(
        &self,
        order: Order,
        done: impl FnOnce(Result<(), CollectorError>) + Send + 'static,
    ) {
        if let Some((_, collector)) = &self.session {
            collector.order(order, done);
            // Wakes it.
            self.device.dump();
        }
    }

    /// The collector has obeyed, or failed to.
    pub(super) fn complete(
        &mut self,
        after: After,
        result: Result<(), String>,
    ) -> Result<Value, Failure> {
        if matches!(after, After::Restart) {
            self.restarting = false;
        }
        result.map_err(|message| Failure::new(FailureKind::Session, message))?;
        match after {
            After::Answer => Ok(json!({})),
            After::Restart => {
                let before = self.opened;
                self.close();
                let opened = self.open().or_else(|error| {
                    // The sizes are at fault: as before, so that the session goes on.
                    self.write_sizes(before);
                    let reader = self.open().map_err(|error| self.refused_start(error))?;
                    self.resume(reader);
                    Err(refused(error))
                });
                self.resume(opened?);
                self.start().map_err(|error| self.refused_start(error))?;
                Ok(json!({}))
            }
        }
    }

    fn resume(&self, reader: EventReader) {
        // That the collector has ended shows with the next order.
        self.send(Order::Resume(reader), |_| {});
    }

    fn refused_start(&self, error: ControlError) -> Failure {
        if self.files.life_cycle().is_open() {
            return refused(error);
        }
        let message = "Nobody reads the event buffer: start a reader first, opread for instance, or have the VM write a session \
                       (session=DIR)";
        Failure {
            kind: FailureKind::NoReader,
            code: error.code(),
            message: message.to_owned(),
        }
    }

    fn refused_write(&self, error: ControlError) -> Failure {
        match error {
            ControlError::Busy => Failure {
                message: "Profiling runs: stop it first (opcontrol --stop)".to_owned(),
                ..refused(error)
            },
            ControlError::Invalid if !self.files.life_cycle().is_open() => Failure {
                message: format!(
                    "{error}; nobody reads the event buffer, so profiling cannot be started"
                ),
                ..refused(error)
            },
            _ => refused(error),
        }
    }

    fn refused_reader(&self, error: ControlError) -> Failure {
        if error != ControlError::Busy {
            return refused(error);
        }
        let message = match self.session {
            Some(_) => {
                "The event buffer has a reader: the VM's collector, which writes the session. Start the VM without session= to read \
                 it yourself"
            }
            None => {
                "The event buffer has a reader: another client. There is one at a time; end that one first"
            }
        };
        Failure {
            kind: FailureKind::ReaderBusy,
            code: error.code(),
            message: message.to_owned(),
        }
    }

    fn cookie(&self, cookie: u64) -> Value {
        let answer = match self.device.cookie(cookie) {
            Some(CookieTarget::File { path, deleted, .. }) => CookieAnswer::file(&path, deleted),
            Some(CookieTarget::Anonymous {
                tgid,
                start,
                end,
                name,
            }) => CookieAnswer::Anonymous {
                tgid,
                start,
                end,
                name: String::from_utf8_lossy(&name).into_owned(),
            },
            None => CookieAnswer::Unknown,
        };
        json!(answer)
    }

    fn status(&mut self, clients: usize) -> Value {
        let account = self.device.account();
        let counter = |(name, value): (&str, u64)| Counter {
            name: name.to_owned(),
            value,
        };
        let values = *self.files.life_cycle().values();
        let cpu_type = self.files.read("cpu_type", 0, READ_BYTES);
        let kernel = self.device.kernel();
        let status = Status {
            said_hello: account.said_hello,
            started: self.files.life_cycle().is_started(),
            quiesced: self.device.quiesced(),
            reader: match (&self.session, self.files.life_cycle().is_open()) {
                (Some(_), true) => Reader::Collector,
                (None, true) => Reader::Client,
                (_, false) => Reader::None,
            },
            session: self.session.as_ref().map(|(path, _)| path.clone()),
            device_id: self.device_id,
            release: kernel.map(|kernel| String::from_utf8_lossy(&kernel.release).into_owned()),
            cpu_type: String::from_utf8_lossy(&cpu_type.unwrap_or_default()).into_owned(),
            settings: SettingsStatus {
                period_ns: self.device.period_ns(),
                backtrace_depth: values.backtrace_depth,
                buffer_size: values.buffer_size,
                buffer_watershed: values.buffer_watershed,
                cpu_buffer_size: values.cpu_buffer_size,
            },
            adds_up: account.adds_up(),
            ends: account.ends().len(),
            vcpus: account.vcpus.iter().map(vcpu).collect(),
            account: account.iter().map(counter).collect(),
            collector: self
                .session
                .as_ref()
                .map_or_else(Vec::new, |(_, collector)| {
                    collector.stats().pairs().into_iter().map(counter).collect()
                }),
            clients,
        };
        json!(status)
    }
}

fn vcpu(account: &oprofile_device::VcpuAccount) -> VcpuStatus {
    VcpuStatus {
        received: account.received,
        lost: account.lost,
        invalid: account.invalid,
        malformed: account.malformed,
        aborted: account.aborted,
        buffers: account.buffers,
        kicks: account.kicks,
        doorbells: account.doorbells,
        syncs: account.syncs,
    }
}

fn refused(error: ControlError) -> Failure {
    Failure {
        kind: FailureKind::ControlFile,
        code: error.code(),
        message: error.to_string(),
    }
}

/// Its words would be taken from its reader.
fn not_the_buffer(path: &str) -> Result<(), Failure> {
    if path != BUFFER {
        return Ok(());
    }
    Err(Failure {
        message: "The event buffer is read by the command \"events\"".to_owned(),
        ..refused(ControlError::Invalid)
    })
}
