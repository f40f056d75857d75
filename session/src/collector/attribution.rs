//! Which image and program a sample belongs to. One [`State`] lives for one read of the event buffer.

use super::images::{Full, ImageId, Images, Target};
use super::store::{FileKey, Refused, Store};
use super::{CollectorOptions, CollectorStats, Separation};
use crate::events::{ESCAPE, Record, records};
use crate::guest::{CookieTarget, GuestNames, KernelImage};
use crate::symbol_elf::TEXT_OFFSET;
use std::sync::Arc;

/// Where a program counter lies.
#[derive(Debug, Clone, Copy)]
struct Place {
    app: ImageId,
    image: ImageId,
    key: u64,
    domain: Domain,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Domain {
    Kernel,
    File,
    Anonymous,
}

/// Why a sample cannot be filed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lost {
    NoContext,
    UnknownEvent,
    NoKernelImage,
    NoCookie,
    UnknownCookie,
    NoRegion,
    NoProgram,
    OverCapacity,
    Saturated,
}

impl From<Full> for Lost {
    fn from(_: Full) -> Self {
        Self::OverCapacity
    }
}

impl From<Refused> for Lost {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Full => Self::OverCapacity,
            Refused::Saturated => Self::Saturated,
        }
    }
}

/// Where in a call chain the stream is.
#[derive(Debug, Clone, Copy)]
enum Trace {
    /// What comes is a sample.
    Off,
    /// What comes is a sample, and its callers follow.
    Begun,
    /// What comes is the caller of this place; `None` where the chain has been cut.
    Frames(Option<Place>),
}

/// Decoding state, fresh for each read: what a record says holds until the next one says otherwise.
#[derive(Debug)]
pub(super) struct State<'a> {
    options: &'a CollectorOptions,
    images: &'a mut Images,
    store: &'a mut Store,
    stats: &'a mut CollectorStats,
    cpu: Option<u64>,
    in_kernel: Option<bool>,
    app_cookie: Option<u64>,
    cookie: Option<u64>,
    trace: Trace,
    /// The kernel image of the last kernel sample.
    last_kernel: Option<(Arc<KernelImage>, ImageId)>,
}

impl<'a> State<'a> {
    pub(super) fn new(
        options: &'a CollectorOptions,
        images: &'a mut Images,
        store: &'a mut Store,
        stats: &'a mut CollectorStats,
    ) -> Self {
        Self {
            options,
            images,
            store,
            stats,
            cpu: None,
            in_kernel: None,
            app_cookie: None,
            cookie: None,
            trace: Trace::Off,
            last_kernel: None,
        }
    }

    /// Takes in all words of the read.
    pub(super) fn run(mut self, words: &[u64], names: &mut dyn GuestNames) {
        self.stats.reads += 1;
        for record in records(words) {
            match record {
                Record::CpuSwitch { cpu } => {
                    self.cpu = Some(cpu);
                    // A chain never spans two CPU buffers: give it the end that the format lacks.
                    self.trace = Trace::Off;
                }
                Record::CtxSwitch { app_cookie, .. } => {
                    self.app_cookie = Some(app_cookie);
                    // A task change inside a chain cannot be: what follows is a sample without a chain.
                    if matches!(self.trace, Trace::Frames(_)) {
                        self.trace = Trace::Off;
                    }
                }
                Record::CookieSwitch { cookie } => {
                    self.cookie = (cookie != ESCAPE).then_some(cookie);
                }
                Record::KernelEnter => self.in_kernel = Some(true),
                Record::UserEnter => {
                    self.in_kernel = Some(false);
                    // No arc leads from the kernel to its user-space caller.
                    if let Trace::Frames(callee) = &mut self.trace {
                        *callee = None;
                    }
                }
                Record::ModuleLoaded => {
                    self.stats.modules_loaded += 1;
                    self.last_kernel = None;
                    names.module_loaded();
                }
                Record::TraceBegin => self.trace = Trace::Begun,
                Record::Sample { pc, event } => self.program_counter(pc, event, names),
                Record::ExtData { .. } => self.stats.data_records += 1,
                Record::Unknown { .. } => self.stats.unknown_records += 1,
                Record::Truncated => self.stats.truncated_records += 1,
            }
        }
    }

    fn program_counter(&mut self, pc: u64, event: u64, names: &dyn GuestNames) {
        match self.trace {
            Trace::Off => {
                self.sample(pc, event, names);
            }
            Trace::Begun => self.trace = Trace::Frames(self.sample(pc, event, names)),
            Trace::Frames(callee) => {
                self.stats.frames += 1;
                let caller = self.place(pc, names).ok();
                let arc = match (caller, callee) {
                    (Some(caller), Some(callee)) => self.arc(caller, callee),
                    (caller, _) => caller.ok_or(Lost::NoContext).map(drop),
                };
                if arc.is_err() {
                    self.stats.frames_cut += 1;
                }
                self.trace = Trace::Frames(caller);
            }
        }
    }

    fn sample(&mut self, pc: u64, event: u64, names: &dyn GuestNames) -> Option<Place> {
        self.stats.samples += 1;
        let place = self.place(pc, names).and_then(|place| {
            // The session has one event.
            if event != 0 {
                return Err(Lost::UnknownEvent);
            }
            let file = FileKey {
                app: place.app,
                image: place.image,
                callee: None,
                cpu: self.file_cpu(),
            };
            self.store.count(file, place.key)?;
            Ok(place)
        });
        let stats = &mut *self.stats;
        *match place.map(|place| place.domain) {
            Ok(Domain::Kernel) => &mut stats.kernel,
            Ok(Domain::File) => &mut stats.file,
            Ok(Domain::Anonymous) => &mut stats.anonymous,
            Err(Lost::NoContext) => &mut stats.no_context,
            Err(Lost::UnknownEvent) => &mut stats.unknown_event,
            Err(Lost::NoKernelImage) => &mut stats.no_kernel_image,
            Err(Lost::NoCookie) => &mut stats.no_cookie,
            Err(Lost::UnknownCookie) => &mut stats.unknown_cookie,
            Err(Lost::NoRegion) => &mut stats.no_region,
            Err(Lost::NoProgram) => &mut stats.no_program,
            Err(Lost::OverCapacity) => &mut stats.over_capacity,
            Err(Lost::Saturated) => &mut stats.saturated,
        } += 1;
        place.ok()
    }

    /// Counts the pair. Both keys are cut to 32 bits, as the format has it.
    fn arc(&mut self, caller: Place, callee: Place) -> Result<(), Lost> {
        let file = FileKey {
            app: caller.app,
            image: caller.image,
            callee: Some(callee.image),
            cpu: self.file_cpu(),
        };
        self.store
            .count(file, caller.key << 32 | callee.key & 0xffff_ffff)?;
        self.stats.arcs += 1;
        Ok(())
    }

    fn file_cpu(&self) -> Option<u64> {
        self.cpu.filter(|_| self.options.per_cpu)
    }

    fn place(&mut self, pc: u64, names: &dyn GuestNames) -> Result<Place, Lost> {
        if self.options.per_cpu && self.cpu.is_none() {
            return Err(Lost::NoContext);
        }
        match self.in_kernel {
            None => Err(Lost::NoContext),
            Some(true) => self.kernel_place(pc, names),
            Some(false) => self.user_place(pc, names),
        }
    }

    fn kernel_place(&mut self, pc: u64, names: &dyn GuestNames) -> Result<Place, Lost> {
        let holds = |image: &KernelImage| (image.start..image.end).contains(&pc);
        let (start, image) = match &self.last_kernel {
            Some((image, id)) if holds(image) => (image.start, *id),
            _ => {
                let found = names
                    .kernel_image(pc)
                    .filter(|image| holds(image))
                    .ok_or(Lost::NoKernelImage)?;
                let id = self.images.kernel(&found)?;
                let start = found.start;
                self.last_kernel = Some((found, id));
                (start, id)
            }
        };
        let app = match self.options.separation {
            Separation::None | Separation::Library => None,
            Separation::Kernel => self.program(names),
        };
        // `pc - start` is below 2^64 - TEXT_OFFSET for any image that leaves the last page alone; wrap for the others.
        let key = (pc - start).wrapping_add(TEXT_OFFSET);
        Ok(Place {
            app: app.unwrap_or(image),
            image,
            key,
            domain: Domain::Kernel,
        })
    }

    fn user_place(&mut self, pc: u64, names: &dyn GuestNames) -> Result<Place, Lost> {
        let cookie = match self.cookie {
            None => return Err(Lost::NoCookie),
            Some(0) => return Err(Lost::NoRegion),
            Some(cookie) => cookie,
        };
        let Target {
            id: image,
            region_start,
        } = match self.images.known_cookie(cookie) {
            Some(target) => target,
            None => {
                let target = names.cookie(cookie).ok_or(Lost::UnknownCookie)?;
                self.images.add_cookie(cookie, target)?
            }
        };
        match region_start {
            Some(start) => {
                let app = self.program(names).ok_or(Lost::NoProgram)?;
                let key = pc.checked_sub(start).ok_or(Lost::NoRegion)?;
                Ok(Place {
                    app,
                    image,
                    key,
                    domain: Domain::Anonymous,
                })
            }
            None => {
                let app = match self.options.separation {
                    Separation::None => None,
                    Separation::Library | Separation::Kernel => self.program(names),
                };
                Ok(Place {
                    app: app.unwrap_or(image),
                    image,
                    key: pc,
                    domain: Domain::File,
                })
            }
        }
    }

    /// The image of the current task's program.
    fn program(&mut self, names: &dyn GuestNames) -> Option<ImageId> {
        let cookie = self
            .app_cookie
            .filter(|cookie| *cookie != 0 && *cookie != ESCAPE)?;
        if let Some(target) = self.images.known_cookie(cookie) {
            return target.region_start.is_none().then_some(target.id);
        }
        match names.cookie(cookie)? {
            target @ CookieTarget::File { .. } => {
                Some(self.images.add_cookie(cookie, target).ok()?.id)
            }
            CookieTarget::Anonymous { .. } => None,
        }
    }
}
