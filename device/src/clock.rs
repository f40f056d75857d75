//! The host's clock: each sampling period an NMI to every vCPU, which reaches code that runs with interrupts off.
//!
//! All vCPUs have their ticks at once, so that the host wakes up once a period, however many there are.
//!
//! An NMI that finds no handler may stop a guest, so one is sent only to a vCPU whose driver has asked for it
//! ([`HostClock::arm`]), only while samples are wanted, and only when the one before has been taken. The driver says in its
//! clock cell ([`oprofile_wire::clock`]) that a vCPU idles; such a one is left alone. Each tick of an armed vCPU ends in
//! exactly one counter of [`ClockAccount`].

use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use oprofile_wire::clock::{ALIGNMENT, BUSY, ClockCell, MAX_APIC_ID, SENT, TAKEN};
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryBackend};

/// How long an NMI may be on its way to a busy vCPU before it counts as gone and another one is sent. The host may keep a vCPU
/// from running for a while; one second of it is past all scheduling.
const PATIENCE_NS: u64 = 1_000_000_000;

/// The same in ticks, for long periods: a vCPU that was kept from running for one tick may be so for another.
const MIN_PATIENCE: u64 = 2;

/// A tick comes at random within this part of a period, so that work that repeats with the period does not meet it at the
/// same place each time.
const SPREAD: u64 = 8;

/// What became of the ticks of armed vCPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClockAccount {
    /// Requests of the driver that began the NMIs of a vCPU. None: the guest samples by its own timer, if at all.
    pub armed: u64,
    /// Ticks at which an NMI was sent.
    pub sent: u64,
    /// Ticks at which the vCPU was idle.
    pub idle: u64,
    /// Ticks at which the NMI before had not been taken yet: the host did not let the vCPU run.
    pub pending: u64,
    /// Ticks at which the vCPU's local APIC did not take the NMI: it is not enabled, or there is none of that id.
    pub refused: u64,
    /// Ticks that went by before this clock's thread got to run.
    pub missed: u64,
}

/// A cell that is not in RAM or not aligned, or an APIC id of no single vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadClock;

/// A vCPU that wants NMIs.
struct Armed<M> {
    memory: Arc<M>,
    cell: GuestAddress,
    apic_id: u32,
    /// As the cell has it.
    sent: u32,
    /// The last one did not get as far as the vCPU.
    refused: bool,
    /// Ticks since it was sent.
    waited: u64,
}

struct State<M> {
    /// Index is the vCPU.
    vcpus: Vec<Option<Armed<M>>>,
    period_ns: u64,
    /// When the current period began, and when the tick in it comes; nanoseconds of the clock's own.
    grid: u64,
    deadline: u64,
    random: u32,
    enabled: bool,
    closed: bool,
    account: ClockAccount,
}

/// The clock of all vCPUs. Its lock is taken under the device's, never the other way round.
pub struct HostClock<M> {
    start: Instant,
    state: Mutex<State<M>>,
    changed: Condvar,
}

impl<M> fmt::Debug for HostClock<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostClock").finish_non_exhaustive()
    }
}

impl<M> HostClock<M> {
    pub(crate) fn new(vcpus: u16, period_ns: u64) -> Self {
        Self {
            start: Instant::now(),
            state: Mutex::new(State {
                vcpus: (0..vcpus).map(|_| None).collect(),
                period_ns,
                grid: 0,
                deadline: 0,
                random: 0x9e37_79b9,
                enabled: false,
                closed: false,
                account: ClockAccount::default(),
            }),
            changed: Condvar::new(),
        }
    }

    /// A panic under the lock leaves counters and deadlines, any of which is valid.
    fn lock(&self) -> MutexGuard<'_, State<M>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn change(&self, change: impl FnOnce(&mut State<M>)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    pub(crate) fn account(&self) -> ClockAccount {
        self.lock().account
    }

    /// Samples are wanted, or not. When this returns and they are not, no NMI is being sent.
    pub(crate) fn set_enabled(&self, enabled: bool) {
        self.change(|state| {
            state.enabled = enabled;
            state.advance(self.now());
        });
    }

    pub(crate) fn set_period(&self, period_ns: u64) {
        self.change(|state| {
            state.period_ns = period_ns;
            state.advance(self.now());
        });
    }

    /// No vCPU gets any more NMIs.
    pub(crate) fn disarm_all(&self) {
        self.change(|state| {
            for vcpu in &mut state.vcpus {
                *vcpu = None;
            }
        });
    }

    /// A vCPU gets no more NMIs.
    pub(crate) fn disarm(&self, vcpu: u16) {
        self.change(|state| {
            if let Some(vcpu) = state.vcpus.get_mut(usize::from(vcpu)) {
                *vcpu = None;
            }
        });
    }

    /// Ends [`HostClock::serve`], now or when it is called.
    pub fn close(&self) {
        self.change(|state| state.closed = true);
    }
}

impl<M: GuestMemoryBackend> HostClock<M> {
    /// A vCPU wants NMIs; `cell` is the GPA of its clock cell.
    pub(crate) fn arm(
        &self,
        vcpu: u16,
        apic_id: u32,
        memory: &Arc<M>,
        cell: u64,
    ) -> Result<(), BadClock> {
        let cell = GuestAddress(cell);
        let fits =
            cell.0.is_multiple_of(ALIGNMENT) && memory.check_range(cell, size_of::<ClockCell>());
        if !fits || apic_id > MAX_APIC_ID {
            return Err(BadClock);
        }
        self.change(|state| {
            if !state.wanted() {
                // The periods that nobody waited for are not missed.
                state.advance(self.now());
            }
            if let Some(vcpu) = state.vcpus.get_mut(usize::from(vcpu)) {
                *vcpu = Some(Armed {
                    memory: Arc::clone(memory),
                    cell,
                    apic_id,
                    sent: 0,
                    refused: false,
                    waited: 0,
                });
                state.account.armed += 1;
            }
        });
        Ok(())
    }

    /// Gives the clock until [`HostClock::close`], on a thread of its own. `send` sends an NMI to the vCPU with an APIC id, at most
    /// [`MAX_APIC_ID`], and tells whether its local APIC took it; it must not wait.
    pub fn serve(&self, mut send: impl FnMut(u32) -> bool) {
        let mut state = self.lock();
        while !state.closed {
            let now = self.now();
            state = match state.tick(now, &mut send) {
                None => self.changed.wait(state),
                Some(next) => {
                    let left = Duration::from_nanos(next.saturating_sub(self.now()));
                    let waited = self.changed.wait_timeout(state, left);
                    Ok(waited.unwrap_or_else(PoisonError::into_inner).0)
                }
            }
            .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl<M> State<M> {
    /// Whether anybody is to be sent NMIs.
    fn wanted(&self) -> bool {
        self.enabled && self.vcpus.iter().any(Option::is_some)
    }

    /// Sets the next deadline behind `now`; returns how many periods have begun since the last.
    fn advance(&mut self, now: u64) -> u64 {
        let period = self.period_ns;
        let periods = now.saturating_sub(self.grid) / period + 1;
        self.grid = self.grid.saturating_add(periods.saturating_mul(period));
        // xorshift32 (Marsaglia 2003).
        self.random ^= self.random << 13;
        self.random ^= self.random >> 17;
        self.random ^= self.random << 5;
        let spread = (period / SPREAD).max(1);
        self.deadline = self.grid.saturating_add(u64::from(self.random) % spread);
        periods
    }
}

impl<M: GuestMemoryBackend> State<M> {
    /// Serves every vCPU if a tick is due; returns when the next one is, `None` while no vCPU wants any.
    fn tick(&mut self, now: u64, send: &mut impl FnMut(u32) -> bool) -> Option<u64> {
        if !self.wanted() {
            return None;
        }
        if now >= self.deadline {
            let missed = self.advance(now) - 1;
            let patience = (PATIENCE_NS / self.period_ns).max(MIN_PATIENCE);
            for armed in self.vcpus.iter_mut().flatten() {
                *armed.tick(patience, send).counter(&mut self.account) += 1;
                self.account.missed += missed;
            }
        }
        Some(self.deadline)
    }
}

/// How a tick ended.
enum End {
    Sent,
    Idle,
    Pending,
    Refused,
}

impl End {
    const fn counter(self, account: &mut ClockAccount) -> &mut u64 {
        match self {
            Self::Sent => &mut account.sent,
            Self::Idle => &mut account.idle,
            Self::Pending => &mut account.pending,
            Self::Refused => &mut account.refused,
        }
    }
}

impl<M: GuestMemoryBackend> Armed<M> {
    fn tick(&mut self, patience: u64, send: &mut impl FnMut(u32) -> bool) -> End {
        // The whole cell is in RAM, so the defaults are for nothing: they leave the vCPU alone.
        if self.load(BUSY).unwrap_or(0) == 0 {
            return End::Idle;
        }
        let taken = self.load(TAKEN).unwrap_or(self.sent);
        if taken != self.sent && !self.refused {
            self.waited += 1;
            if self.waited < patience {
                return End::Pending;
            }
        }
        if !self.refused {
            self.sent = self.sent.wrapping_add(1);
            // Before the NMI: its handler knows it by that.
            if !self.store_sent() {
                return End::Refused;
            }
        }
        self.waited = 0;
        self.refused = !send(self.apic_id);
        if self.refused {
            End::Refused
        } else {
            End::Sent
        }
    }

    fn load(&self, offset: usize) -> Option<u32> {
        let at = self.cell.checked_add(offset as u64)?;
        let word: u32 = self.memory.load(at, Ordering::Acquire).ok()?;
        Some(u32::from_le(word))
    }

    fn store_sent(&self) -> bool {
        let at = self.cell.checked_add(SENT as u64);
        at.is_some_and(|at| {
            self.memory
                .store(self.sent.to_le(), at, Ordering::Release)
                .is_ok()
        })
    }
}

#[cfg(test)]
#[path = "clock_tests.rs"]
mod tests;
