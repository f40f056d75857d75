//! What a sample costs at worst: guests that are laid out to burn the host's time.
//!
//! Objects lie in random order on more pages than caches hold: nearly each read of one waits for memory. Where the page tables
//! deny the linear map, each pointer is walked as well, through five levels to a small page. Each sample is of another process, and
//! no question comes to an end that would be remembered.

use oprofile_device::Settings;
use oprofile_device::guest::MAX_VMAS;
use oprofile_device::guest::paging::Levels;
use oprofile_device::test_utils::{COMPACT_LAYOUT, GuestShape, PageSize, SyntheticGuest};
use oprofile_guest_agent::Sample;
use oprofile_wire::layout::{Field, VmaStore};
use oprofile_wire::sample::MAX_BUFFER_BYTES;
use oprofile_workload::loopback::Loopback;

use super::{Failure, Job, WrongCount};
use crate::measure::{Figure, add_time};
use oprofile_workload::random::Random;

/// Name of the job.
pub const NAME: &str = "worst";

const RAM_BYTES: u64 = 1024 * 1024 * 1024;

const PAGE_BYTES: u64 = 4_096;

/// Bytes for objects.
const OBJECTS_BYTES: u64 = RAM_BYTES / 2;

/// Bytes from one object to the next: cache lines and their neighbours are its own.
const OBJECT_BYTES: u64 = 512;

/// Processes: the objects of a few ticks' samples are more than a third-level cache holds.
const PROCESSES: u64 = 18_700;

/// Objects of a process besides its chain: task, address space, VMA, file, inode.
const HEAD_OBJECTS: u64 = 5;

/// Objects of a process's chain: more than what a sample may cost reaches.
const CHAIN_OBJECTS: u64 = 51;

/// Bytes of a directory's name: the most for one unit of work, and Linux's `NAME_MAX`.
const NAME_BYTES: u64 = 255;

/// Samples of a tick: those of 25 vCPUs at 1,000 a second.
const SAMPLES: usize = 2_500;

/// Ticks of a round.
const TICKS: usize = 2;

/// Ticks before that.
const TICKS_BEFORE: usize = 4;

/// An address that the samples have.
const PC: u64 = 0x7000_0000_0000;

/// What a guest makes the device follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chain {
    /// A list of VMAs, all below the address.
    Vmas,
    /// A path of directories.
    Directories,
}

/// RAM whose parts are given out in random order.
struct Scattered {
    guest: SyntheticGuest,
    parts: Vec<u64>,
}

impl Scattered {
    fn new() -> Self {
        let mut guest = SyntheticGuest::with_shape(GuestShape {
            levels: Levels::Five,
            layout: COMPACT_LAYOUT.to_vec(),
            store: VmaStore::List,
            ram_bytes: RAM_BYTES,
            linear_pages: PageSize::Small,
            ..GuestShape::default()
        });
        let start = guest.allocate(OBJECTS_BYTES);
        let mut parts: Vec<u64> = (0..OBJECTS_BYTES / OBJECT_BYTES)
            .map(|number| SyntheticGuest::linear(start + number * OBJECT_BYTES))
            .collect();
        Random::new(4).shuffle(&mut parts);
        Self { guest, parts }
    }

    /// An object.
    fn object(&mut self) -> u64 {
        self.parts.pop().expect("as many parts as objects")
    }

    fn vma(&mut self, mm: u64, start: u64, end: u64, file: u64) -> u64 {
        let vma = self.object();
        for (field, value) in [
            (Field::VmaStart, start),
            (Field::VmaEnd, end),
            (Field::VmaFile, file),
            (Field::VmaMm, mm),
        ] {
            self.guest.set(vma, field, value);
        }
        vma
    }

    /// A directory below `parent` with the longest name.
    fn directory(&mut self, parent: u64) -> u64 {
        let (dentry, name) = (self.object(), self.object());
        self.guest.poke(name, u64::from_le_bytes(*b"longpath"));
        for (field, value) in [
            (Field::DentryParent, parent),
            (Field::DentryName, name),
            (Field::DentryNameLength, NAME_BYTES),
            (Field::DentryHashLink, dentry),
        ] {
            self.guest.set(dentry, field, value);
        }
        dentry
    }

    /// A process with a chain of objects in front of what is asked for; its task.
    fn process(&mut self, pid: u32, chain: Chain) -> u64 {
        let (task, mm) = (self.object(), self.object());
        let file = match chain {
            Chain::Vmas => 0,
            Chain::Directories => {
                let top = self.directory(0);
                let mut dentry = top;
                for _ in 2..CHAIN_OBJECTS / 2 {
                    dentry = self.directory(dentry);
                }
                // A path without a beginning.
                self.guest.set(top, Field::DentryParent, dentry);
                let (file, inode) = (self.object(), self.object());
                self.guest.set(dentry, Field::DentryInode, inode);
                self.guest.set(file, Field::FileDentry, dentry);
                self.guest.set(file, Field::FileInode, inode);
                file
            }
        };
        let mut next = match chain {
            Chain::Vmas => 0,
            Chain::Directories => self.vma(mm, PC, PC + PAGE_BYTES, file),
        };
        if chain == Chain::Vmas {
            for number in (1..=CHAIN_OBJECTS).rev() {
                let start = number * PAGE_BYTES;
                let vma = self.vma(mm, start, start + PAGE_BYTES, 0);
                self.guest.set(vma, Field::VmaNext, next);
                next = vma;
            }
        }
        for (object, field, value) in [
            (mm, Field::MmVmaList, next),
            // More than are granted for making a table: each question goes along the list.
            (mm, Field::MmVmaCount, MAX_VMAS.into()),
            (mm, Field::MmExeFile, file),
            (task, Field::TaskMm, mm),
        ] {
            self.guest.set(object, field, value);
        }
        self.guest.set_task_ids(task, pid, pid);
        task
    }
}

/// A guest, and the tasks of its processes.
struct Guest {
    loopback: Loopback,
    tasks: Vec<u64>,
    next: usize,
    words: Vec<u64>,
}

impl Guest {
    /// Where the linear map is denied, its pointers are walked.
    fn new(chain: Chain, linear: bool) -> Result<Self, Failure> {
        let mut ram = Scattered::new();
        let tasks = (1..)
            .take(usize::try_from(PROCESSES)?)
            .map(|pid| ram.process(pid, chain))
            .collect();
        let mut guest = ram.guest;
        if !linear {
            // It would be proven by the page of the root table.
            let root = SyntheticGuest::linear(guest.root());
            guest.set_entry(root, 1, 0);
        }
        let settings = Settings {
            sample_buffer_bytes: u32::try_from(MAX_BUFFER_BYTES)?,
            ..Settings::default()
        };
        let words = Vec::with_capacity(settings.buffer_size);
        let mut made = Self {
            loopback: Loopback::new(guest, settings)?,
            tasks,
            next: 0,
            words,
        };
        // What is granted ahead of samples is used up then.
        for _ in 0..TICKS_BEFORE {
            made.tick()?;
        }
        Ok(made)
    }

    /// Lets a tick's samples be taken and resolved; nanoseconds that it took, and samples that were throttled.
    fn tick(&mut self) -> Result<(f64, u64), Failure> {
        let counted = |loopback: &Loopback| {
            let account = loopback.device().account();
            (account.sync.samples(), account.sync.throttled)
        };
        let (samples, throttled) = counted(&self.loopback);
        let mut took = 0.0;
        let (tasks, next) = (&self.tasks, &mut self.next);
        self.loopback.on_vcpu(0, |vcpu| {
            for _ in 0..SAMPLES {
                *next = (*next + 1) % tasks.len();
                let sample = Sample {
                    pc: PC,
                    is_kernel: false,
                    event: 0,
                    task: tasks[*next],
                };
                vcpu.sample(&sample, 0, &[]);
            }
            add_time(&mut took, || vcpu.post());
        });
        add_time(&mut took, || self.loopback.device().tick());
        self.words.clear();
        self.loopback.read(&mut self.words);
        let (all, more_throttled) = counted(&self.loopback);
        if all - samples != SAMPLES as u64 {
            return Err(WrongCount {
                expected: SAMPLES,
                found: all - samples,
            }
            .into());
        }
        Ok((took, more_throttled - throttled))
    }
}

// As many parts as objects.
const _: () = assert!(PROCESSES * (HEAD_OBJECTS + CHAIN_OBJECTS) <= OBJECTS_BYTES / OBJECT_BYTES);

/// Lays out the guests.
pub fn prepare() -> Result<Box<dyn Job>, Failure> {
    let figures = |name: &str| {
        [
            Figure::new(format!("{name}, each sample"), "µs").reach(20.0),
            Figure::new(format!("{name}, throttled"), "% of samples"),
        ]
    };
    let names = ["list of VMAs", "list of VMAs, walked", "path, walked"];
    Ok(Box::new(Worst {
        guests: [
            Guest::new(Chain::Vmas, true)?,
            Guest::new(Chain::Vmas, false)?,
            Guest::new(Chain::Directories, false)?,
        ],
        figures: names.map(figures).concat(),
    }))
}

struct Worst {
    guests: [Guest; 3],
    /// Two a guest.
    figures: Vec<Figure>,
}

impl Job for Worst {
    fn name(&self) -> &'static str {
        NAME
    }

    fn round(&mut self) -> Result<(), Failure> {
        for (guest, figures) in self.guests.iter_mut().zip(self.figures.chunks_mut(2)) {
            let (mut took, mut throttled) = (0.0, 0);
            for _ in 0..TICKS {
                let (more, more_throttled) = guest.tick()?;
                took += more;
                throttled += more_throttled;
            }
            #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
            let values = [
                took / (SAMPLES * TICKS) as f64 / 1_000.0,
                throttled as f64 * 100.0 / (SAMPLES * TICKS) as f64,
            ];
            for (figure, value) in figures.iter_mut().zip(values) {
                figure.add(value);
            }
        }
        Ok(())
    }

    fn figures(&self) -> &[Figure] {
        &self.figures
    }
}
