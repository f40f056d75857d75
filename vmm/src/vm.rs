//! A virtual machine from its configuration to its end.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use kvm_ioctls::{IoEventAddress, Kvm, VmFd};
use oprofile_device::control_files::ControlError;
use oprofile_device::{Clock, Device};
use oprofile_session::{Collector, CollectorError, CollectorOptions};
use thiserror::Error;
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use crate::acpi;
use crate::block::{BlockDevice, BlockWorker, Image, ImageError};
use crate::boot::cmdline::{self, CmdlineError, MmioDevice};
use crate::boot::{BootError, BootFiles, Entry};
use crate::bus::Overlap;
use crate::config::{MAX_DISKS, MAX_VCPUS, OprofileDevConfig, OptionError, VmConfig};
use crate::console::{Input, Port};
use crate::cpu::{self, Buses, EndReport, GuestEnd, SetupError, Vcpu, VcpuThreads, VcpuTime};
use crate::devices::{power, serial};
use crate::exit_code::ExitCode;
use crate::kvm::{self, KvmError};
use crate::memory::{HOLE_START, Layout, MemoryError};
use crate::oprofile::socket::{Control, ControlSocket, Listener, SocketError};
use crate::oprofile::{
    self, CollectorThread, InitrdFiles, NmiClock, ProfilingDevice, SessionEnd, Sources, Summary,
    Worker,
};
use crate::virtio::VirtioDevice;
use crate::virtio::mmio::{MmioInterrupt, MmioTransport, QUEUE_NOTIFY, WINDOW_BYTES};

/// The profiling device's window and line; devices to come follow at the next window and line.
const OPROFILE_WINDOW: MmioDevice = MmioDevice {
    address: HOLE_START,
    gsi: 5,
};

/// Windows and lines of the disks; line 8 is left to a clock, as on a PC. Lines are edge-triggered, so none is shared.
fn disk_window(index: usize) -> MmioDevice {
    const GSIS: [u32; MAX_DISKS] = [6, 7, 9, 10, 11, 12, 14, 15];
    MmioDevice {
        address: HOLE_START + (1 + index as u64) * WINDOW_BYTES,
        gsi: GSIS[index],
    }
}

/// How long a guest may take to stop its clocks and hand in its samples. Some timer periods and a few hundred buffers take
/// milliseconds; a guest that does not answer must not hold the host up.
const QUIESCE_LIMIT: Duration = Duration::from_millis(500);

/// How often the answer is looked for.
const QUIESCE_POLL: Duration = Duration::from_millis(2);

/// Why the VM did not start.
#[derive(Debug, Error)]
pub enum VmError {
    /// The number of vCPUs is out of range.
    #[error("A VM has 1 to {MAX_VCPUS} vCPUs, not {0}")]
    Cpus(u16),
    /// `--oprofile-dev` is out of range.
    #[error("--oprofile-dev cannot be used")]
    Option(#[source] OptionError),
    /// Too many disks.
    #[error("A VM has at most {MAX_DISKS} disks, not {0}")]
    Disks(usize),
    /// A disk image.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The command line.
    #[error(transparent)]
    Cmdline(#[from] CmdlineError),
    /// Guest memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// Kernel or initrd.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// KVM.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// A vCPU.
    #[error("Cannot set up the vCPUs")]
    Vcpu(#[source] SetupError),
    /// The session directory.
    #[error("Session directory {} cannot be used; the guest was not started", path.display())]
    Session {
        /// The directory.
        path: PathBuf,
        /// Why not.
        #[source]
        source: CollectorError,
    },
    /// The event buffer has a reader.
    #[error("Cannot read the profiling device's events")]
    Events(#[source] ControlError),
    /// The control socket.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The kick signal has no handler.
    #[error("Cannot install the handler of the kick signal")]
    Kick(#[source] vmm_sys_util::errno::Error),
    /// Two devices at one address.
    #[error("The address map is inconsistent")]
    Overlap(#[from] Overlap),
    /// The host lacks file descriptors or threads.
    #[error("Cannot {what}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

fn cannot(what: &'static str) -> impl FnOnce(io::Error) -> VmError {
    move |source| VmError::Io { what, source }
}

/// What ends the wait for the guest.
#[derive(Debug)]
pub enum Event {
    /// A vCPU met the guest's end.
    Ended(EndReport),
    /// A signal asks for the end.
    Signal(i32),
    /// The user at the console asks for it.
    Escape,
}

/// How a run went.
#[derive(Debug)]
pub struct Outcome {
    /// The guest's end; `None` when the user stopped it.
    pub end: Option<EndReport>,
    /// From the first entry to the last exit.
    pub wall: Duration,
    /// Exits of all vCPUs.
    pub exits: u64,
    /// With the profiling device: what came of it.
    pub summary: Option<Summary>,
}

impl Outcome {
    /// What the program's exit code shall say.
    pub fn exit_code(&self) -> ExitCode {
        let complete = self.summary.as_ref().is_none_or(Summary::is_complete);
        ExitCode::of_run(self.end.as_ref().map(|report| &report.end), complete)
    }
}

/// The profiling device and its threads.
struct Profiling {
    device: Arc<Device<GuestMemoryMmap>>,
    device_id: u32,
    worker: Worker,
    /// What its samples are a rate of.
    time: Arc<VcpuTime>,
    /// Where the host is the clock.
    clock: Option<NmiClock>,
    session: Option<(PathBuf, CollectorThread)>,
    socket: Option<ControlSocket>,
}

/// The ends of the channel that events come through; made before the signals' thread, which needs one.
pub fn events() -> (Sender<Event>, Receiver<Event>) {
    channel()
}

/// Runs a VM to its end. Everything that can be checked without KVM is checked before it is opened, and the session
/// directory is set up before the guest starts. `sender` and `events` are the ends of one channel.
///
/// # Errors
/// When the guest could not be started.
pub fn run(
    config: &VmConfig,
    sender: Sender<Event>,
    events: &Receiver<Event>,
) -> Result<Outcome, VmError> {
    let cpus = u8::try_from(config.cpus)
        .ok()
        .filter(|cpus| (1..=MAX_VCPUS).contains(&u16::from(*cpus)))
        .ok_or(VmError::Cpus(config.cpus))?;
    let layout = Layout::new(config.memory)?;
    let oprofile = config.oprofile.as_ref();
    let settings = oprofile
        .map(|option| Ok((option.settings(config.cpus)?, option.checked_device_id()?)))
        .transpose()
        .map_err(VmError::Option)?;
    if config.disks.len() > MAX_DISKS {
        return Err(VmError::Disks(config.disks.len()));
    }
    let images = config
        .disks
        .iter()
        .map(|disk| Image::open(&disk.path, disk.read_only))
        .collect::<Result<Vec<_>, _>>()?;
    let mut windows: Vec<_> = oprofile.map(|_| OPROFILE_WINDOW).into_iter().collect();
    windows.extend((0..images.len()).map(disk_window));
    let windows = &windows[..];
    let device_id = settings.as_ref().map(|(_, id)| *id);
    let socket = oprofile.and_then(|option| option.socket.as_deref());
    let listener = socket.map(Listener::bind).transpose()?;
    let files = BootFiles::read(config)?;
    let placement = files.place(layout)?;
    let entry = files.entry();
    let cmdline = if entry.by_acpi() {
        cmdline::build(&config.cmdline, None, &[], None)?
    } else {
        cmdline::build(&config.cmdline, Some(config.cpus), windows, device_id)?
    };
    let machine = acpi::Machine {
        cpus,
        devices: windows,
    };

    let kvm = kvm::open(Path::new(kvm::DEVICE))?;
    let memory = Arc::new(layout.reserve()?);
    let vm = Arc::new(kvm::create_vm(&kvm, &memory)?);
    files.load(&memory, &placement, &cmdline, machine)?;
    let (mut buses, serial, room) = legacy_devices(&vm)?;
    let profiling = match (settings, oprofile) {
        (Some((settings, id)), Some(option)) => {
            let device = Device::new(settings)
                .map_err(|error| VmError::Option(OptionError::Settings(error)))?;
            let device = Arc::new(device);
            let kicks = attach(&vm, &mut buses, &memory, &device, id)?;
            let sources = Sources {
                initrd: initrd_files(files.initrd(), option.archive),
                disks: config.disks.iter().map(|disk| disk.path.clone()).collect(),
                archive: option.archive,
            };
            let mut profiling = start_profiling(device, id, option, listener, kicks, sources)?;
            if option.clock == Clock::HostNmi {
                let clock = NmiClock::start(&profiling.device, Arc::clone(&vm));
                profiling.clock = Some(clock.map_err(cannot("start the host's clock"))?);
            }
            Some(profiling)
        }
        _ => None,
    };
    drop(files);
    let disks = images
        .into_iter()
        .enumerate()
        .map(|(index, image)| {
            let disk = Arc::new(BlockDevice::new(image));
            let window = disk_window(index);
            let kick = connect(&vm, &mut buses, &memory, disk.clone(), window)?.pop();
            let kick = kick.ok_or_else(|| VmError::Io {
                what: "connect a disk's queue",
                source: io::ErrorKind::NotFound.into(),
            })?;
            BlockWorker::start(disk, kick).map_err(cannot("start a disk's worker"))
        })
        .collect::<Result<Vec<_>, _>>()?;
    let escape = sender.clone();
    let input = Input::start(rustix::stdio::stdin(), serial, room, move || {
        // Nobody listens any more: the VM has ended.
        let _ = escape.send(Event::Escape);
    })
    .map_err(cannot("start the console's input"))?;
    let outcome = run_vcpus(
        &kvm, &vm, cpus, entry, buses, profiling, disks, sender, events,
    );
    drop(input);
    outcome
}

#[expect(
    clippy::too_many_arguments,
    reason = "the parts of one machine, used once"
)]
fn run_vcpus(
    kvm: &Kvm,
    vm: &VmFd,
    cpus: u8,
    entry: Entry,
    buses: Buses,
    profiling: Option<Profiling>,
    disks: Vec<BlockWorker>,
    sender: Sender<Event>,
    events: &Receiver<Event>,
) -> Result<Outcome, VmError> {
    cpu::install_kick_handler().map_err(VmError::Kick)?;
    let (buses, stop) = (Arc::new(buses), Arc::new(AtomicBool::new(false)));
    let vcpus = cpu::create(kvm, vm, cpus, entry)
        .map_err(VmError::Vcpu)?
        .into_iter()
        .zip(0..)
        .map(|(fd, id)| Vcpu {
            id,
            fd,
            buses: Arc::clone(&buses),
            stop: Arc::clone(&stop),
            exits: 0,
        })
        .collect();
    let started = Instant::now();
    let report = move |report| {
        // Nobody listens any more: the VM is being stopped already.
        let _ = sender.send(Event::Ended(report));
    };
    let time = profiling.as_ref();
    let time = time.map_or_else(Arc::default, |profiling| Arc::clone(&profiling.time));
    let threads =
        VcpuThreads::start(vcpus, stop, &time, report).map_err(cannot("start a vCPU thread"))?;
    // The vCPUs and the signals' thread hold senders, so this does not fail while any of them lives.
    let mut end = match events.recv() {
        Ok(Event::Ended(report)) => Some(report),
        Ok(Event::Signal(_) | Event::Escape) | Err(_) => None,
    };
    if end.is_none()
        && let Some(profiling) = &profiling
    {
        end = quiesce(&profiling.device, events);
    }
    let exits = threads.stop().exits;
    let wall = started.elapsed();
    // No vCPU asks them for anything any more, and the session may take files from what they wrote.
    drop(disks);
    let summary = profiling.map(|profiling| profiling.finish(wall, exits));
    Ok(Outcome {
        end,
        wall,
        exits,
        summary,
    })
}

/// Asks the guest to hand in its samples and waits for its answer, but not for long. A guest that powers off meanwhile has
/// done as it was told; any other end is returned.
fn quiesce(device: &Device<GuestMemoryMmap>, events: &Receiver<Event>) -> Option<EndReport> {
    if !device.account().said_hello {
        return None;
    }
    device.set_enabled(false);
    let limit = Instant::now() + QUIESCE_LIMIT;
    while !device.quiesced() && Instant::now() < limit {
        if let Ok(Event::Ended(report)) = events.recv_timeout(QUIESCE_POLL) {
            return (report.end != GuestEnd::PowerOff).then_some(report);
        }
    }
    if !device.quiesced() {
        tracing::warn!("The guest did not hand in its last samples in time");
    }
    None
}

/// Serial port, power control and keyboard controller; the port once more, and the event that tells when it takes input.
fn legacy_devices(vm: &VmFd) -> Result<(Buses, Arc<dyn Port>, EventFd), VmError> {
    let event = || EventFd::new(libc::EFD_NONBLOCK).map_err(cannot("create an event"));
    let (irq, room) = (event()?, event()?);
    vm.register_irqfd(&irq, serial::COM1_GSI)
        .map_err(|error| KvmError::Refuses("connect an interrupt line", error))?;
    let told = room.try_clone().map_err(cannot("create an event"))?;
    let port = Arc::new(serial::SerialPort::new(
        serial::Irq(irq),
        io::stdout(),
        told,
    ));
    let input: Arc<dyn Port> = port.clone();
    let mut buses = Buses::default();
    let range = |first: u16, bytes: u16| u64::from(first)..u64::from(first) + u64::from(bytes);
    let ports = &mut buses.ports;
    ports.insert(range(serial::COM1, serial::COM1_BYTES), port)?;
    ports.insert(
        range(power::PM1A_CONTROL, power::PM1A_BYTES),
        Arc::new(power::PowerControl),
    )?;
    ports.insert(
        range(power::SLEEP_CONTROL, power::SLEEP_BYTES),
        Arc::new(power::SleepControl),
    )?;
    ports.insert(
        range(power::I8042, power::I8042_BYTES),
        Arc::new(power::KeyboardController),
    )?;
    Ok((buses, input, room))
}

/// Puts the profiling device behind its window; returns the events that KVM writes at notifications of its queues.
fn attach(
    vm: &VmFd,
    buses: &mut Buses,
    memory: &Arc<GuestMemoryMmap>,
    device: &Arc<Device<GuestMemoryMmap>>,
    id: u32,
) -> Result<Vec<EventFd>, VmError> {
    let virtio = Arc::new(ProfilingDevice::new(id, Arc::clone(device)));
    connect(vm, buses, memory, virtio, OPROFILE_WINDOW)
}

/// Puts a virtio device behind a window; returns the events that KVM writes at notifications of its queues.
fn connect(
    vm: &VmFd,
    buses: &mut Buses,
    memory: &Arc<GuestMemoryMmap>,
    device: Arc<dyn VirtioDevice>,
    MmioDevice { address, gsi }: MmioDevice,
) -> Result<Vec<EventFd>, VmError> {
    let event = || EventFd::new(libc::EFD_NONBLOCK).map_err(cannot("create an event"));
    let irq = event()?;
    vm.register_irqfd(&irq, gsi)
        .map_err(|error| KvmError::Refuses("connect an interrupt line", error))?;
    let mut kicks = Vec::new();
    for queue in 0..device.queue_sizes().len() {
        let kick = event()?;
        let index = u32::try_from(queue).unwrap_or(u32::MAX);
        vm.register_ioevent(&kick, &IoEventAddress::Mmio(address + QUEUE_NOTIFY), index)
            .map_err(|error| KvmError::Refuses("connect a queue's notification", error))?;
        kicks.push(kick);
    }
    let interrupt = Arc::new(MmioInterrupt::new(irq));
    let transport = MmioTransport::new(device, Arc::clone(memory), interrupt);
    buses
        .mmio
        .insert(address..address + WINDOW_BYTES, Arc::new(transport))?;
    Ok(kicks)
}

/// Without files a report still has the guest's kernel symbols, so an initrd of another kind is no error. A compressed one takes
/// its time to unpack, so that is done only when it is asked for.
fn initrd_files(initrd: Option<&[u8]>, archive: bool) -> InitrdFiles {
    let Some(initrd) = initrd else {
        return InitrdFiles::default();
    };
    let parsed = InitrdFiles::parse(initrd);
    if parsed.is_err() && archive {
        let unpacked = oprofile::unpack(initrd, oprofile::archive_bytes);
        return match unpacked {
            Ok(archives) => InitrdFiles::parse(&archives).unwrap_or_default(),
            Err(error) => {
                tracing::warn!(
                    "The session gets no files of the initrd: {}",
                    crate::report::Chain(&error)
                );
                InitrdFiles::default()
            }
        };
    }
    parsed.unwrap_or_else(|error| {
        tracing::warn!(
            "The initrd is no uncompressed newc cpio archive, so the session gets no copies of the guest's programs; archive=on \
             unpacks it: {error}"
        );
        InitrdFiles::default()
    })
}

fn start_profiling(
    device: Arc<Device<GuestMemoryMmap>>,
    device_id: u32,
    option: &OprofileDevConfig,
    listener: Option<Listener>,
    kicks: Vec<EventFd>,
    files: Sources,
) -> Result<Profiling, VmError> {
    let mut control = Control::new(Arc::clone(&device), device_id);
    let mut session = None;
    if let Some(directory) = &option.session {
        let collector = Collector::create(directory, CollectorOptions::default());
        let collector = collector.map_err(|source| VmError::Session {
            path: directory.clone(),
            source,
        })?;
        let reader = control.open().map_err(VmError::Events)?;
        let collector = CollectorThread::start(Arc::clone(&device), reader, collector, files)
            .map_err(cannot("start the collector"))?;
        control.set_session(directory.clone(), collector.handle());
        session = Some((directory.clone(), collector));
    }
    let time = Arc::default();
    let worker = Worker::start(Arc::clone(&device), kicks, Arc::clone(&time))
        .map_err(cannot("start the profiling device's worker"))?;
    if session.is_some() {
        control.start().map_err(VmError::Events)?;
    }
    let socket = listener
        .map(|listener| ControlSocket::start(listener, control))
        .transpose()
        .map_err(cannot("serve the control socket"))?;
    Ok(Profiling {
        device,
        device_id,
        worker,
        time,
        clock: None,
        session,
        socket,
    })
}

impl Profiling {
    /// Takes the last samples and completes the session. No vCPU runs any more.
    fn finish(self, wall: Duration, exits: u64) -> Summary {
        drop(self.clock);
        drop(self.worker);
        self.device.dump();
        // First, for its reader's last words and so that nobody gives the collector an order.
        drop(self.socket);
        let session = self.session.map(|(directory, collector)| SessionEnd {
            directory,
            collector: collector.finish(),
        });
        Summary {
            wall,
            exits,
            account: self.device.account(),
            period_ns: self.device.settings().period_ns,
            sampled: self.time.counted(),
            clock: self.device.settings().clock,
            device_id: self.device_id,
            session,
        }
    }
}
