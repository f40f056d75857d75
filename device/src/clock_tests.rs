//! The clock by its own time, with a guest that is a piece of memory.

use super::*;
use proptest::prelude::*;
use vm_memory::GuestMemoryMmap;

const RAM: u64 = 0x1_0000;
const CELL: u64 = 0x4000;
const PERIOD: u64 = 1_000_000;

fn memory() -> Arc<GuestMemoryMmap> {
    let ranges = [(GuestAddress(0), usize::try_from(RAM).unwrap())];
    Arc::new(GuestMemoryMmap::from_ranges(&ranges).unwrap())
}

/// A clock with one armed vCPU, and the guest's side of it.
struct Guest {
    clock: HostClock<GuestMemoryMmap>,
    memory: Arc<GuestMemoryMmap>,
    /// APIC ids that NMIs were sent to.
    sent: Vec<u32>,
    /// What the local APIC answers.
    apic_takes: bool,
}

impl Guest {
    fn new() -> Self {
        let guest = Self {
            clock: HostClock::new(1, PERIOD),
            memory: memory(),
            sent: Vec::new(),
            apic_takes: true,
        };
        guest.clock.set_enabled(true);
        guest.arm();
        guest.set_busy(true);
        guest
    }

    fn arm(&self) {
        self.memory.write_obj(0_u32, GuestAddress(CELL)).unwrap();
        self.memory
            .write_obj(0_u32, GuestAddress(CELL + TAKEN as u64))
            .unwrap();
        self.clock.arm(0, 7, &self.memory, CELL).unwrap();
    }

    fn set_busy(&self, busy: bool) {
        let at = GuestAddress(CELL + BUSY as u64);
        self.memory.write_obj(u32::from(busy), at).unwrap();
    }

    /// The handler runs; whether the NMI was ours.
    fn take(&self) -> bool {
        let sent: u32 = self.memory.read_obj(GuestAddress(CELL)).unwrap();
        let at = GuestAddress(CELL + TAKEN as u64);
        let taken: u32 = self.memory.read_obj(at).unwrap();
        self.memory.write_obj(sent, at).unwrap();
        sent != taken
    }

    /// One tick, at the deadline. Returns the counter that has changed.
    fn tick(&mut self) -> ClockAccount {
        let before = self.clock.account();
        let mut state = self.clock.lock();
        let now = state.deadline;
        let (sent, takes) = (&mut self.sent, self.apic_takes);
        state.tick(now, &mut |apic_id| {
            sent.push(apic_id);
            takes
        });
        let after = state.account;
        ClockAccount {
            armed: after.armed - before.armed,
            sent: after.sent - before.sent,
            idle: after.idle - before.idle,
            pending: after.pending - before.pending,
            refused: after.refused - before.refused,
            missed: after.missed - before.missed,
        }
    }
}

const SENT_ONE: ClockAccount = ClockAccount {
    armed: 0,
    sent: 1,
    idle: 0,
    pending: 0,
    refused: 0,
    missed: 0,
};
const NONE: ClockAccount = ClockAccount {
    sent: 0,
    ..SENT_ONE
};
const PENDING: ClockAccount = ClockAccount { pending: 1, ..NONE };
const IDLE: ClockAccount = ClockAccount { idle: 1, ..NONE };
const REFUSED: ClockAccount = ClockAccount { refused: 1, ..NONE };

#[test]
fn a_busy_vcpu_gets_an_nmi_each_tick_and_knows_it_as_ours() {
    let mut guest = Guest::new();
    for _ in 0..5 {
        assert_eq!(guest.tick(), SENT_ONE);
        assert!(guest.take());
        assert!(!guest.take());
    }
    assert_eq!(guest.sent, [7; 5]);
}

#[test]
fn there_is_one_nmi_on_its_way_at_most() {
    let mut guest = Guest::new();
    assert_eq!(guest.tick(), SENT_ONE);
    for _ in 0..10 {
        assert_eq!(guest.tick(), PENDING);
    }
    guest.take();
    assert_eq!(guest.tick(), SENT_ONE);
    assert_eq!(guest.sent.len(), 2);
}

#[test]
fn an_nmi_that_is_not_taken_for_a_second_is_sent_again() {
    let mut guest = Guest::new();
    guest.tick();
    for _ in 1..PATIENCE_NS / PERIOD {
        assert_eq!(guest.tick(), PENDING);
    }
    assert_eq!(guest.tick(), SENT_ONE);
    assert!(guest.take());
}

#[test]
fn an_idle_vcpu_is_left_alone() {
    let mut guest = Guest::new();
    guest.set_busy(false);
    for _ in 0..10 {
        assert_eq!(guest.tick(), IDLE);
    }
    guest.set_busy(true);
    assert_eq!(guest.tick(), SENT_ONE);
}

#[test]
fn an_nmi_that_the_apic_does_not_take_is_counted_and_tried_at_the_next_tick() {
    let mut guest = Guest::new();
    guest.apic_takes = false;
    for _ in 0..3 {
        assert_eq!(guest.tick(), REFUSED);
    }
    guest.apic_takes = true;
    assert_eq!(guest.tick(), SENT_ONE);
    assert!(guest.take());
    assert_eq!(guest.tick(), SENT_ONE);
}

#[test]
fn none_is_sent_when_disarmed_or_disabled() {
    let mut guest = Guest::new();
    guest.clock.disarm(0);
    assert_eq!(guest.tick(), NONE);
    guest.arm();
    assert_eq!(guest.tick(), SENT_ONE);
    guest.take();
    guest.clock.set_enabled(false);
    assert_eq!(guest.tick(), NONE);
    guest.clock.set_enabled(true);
    guest.clock.disarm_all();
    assert_eq!(guest.tick(), NONE);
    assert_eq!(guest.sent.len(), 1);
}

#[test]
fn ticks_that_went_by_are_missed_and_not_made_up_for() {
    let mut guest = Guest::new();
    let mut state = guest.clock.lock();
    let late = state.grid + 4 * PERIOD + PERIOD / 2;
    state.tick(late, &mut |_| true);
    assert_eq!((state.account.sent, state.account.missed), (1, 4));
    assert!((late..late + 2 * PERIOD).contains(&state.deadline));
    drop(state);
    guest.take();
    assert_eq!(guest.tick(), SENT_ONE);
}

#[test]
fn cells_outside_ram_or_unaligned_and_ids_of_all_vcpus_are_refused() {
    let clock = HostClock::new(1, PERIOD);
    let memory = memory();
    for cell in [CELL + 4, CELL + 8, RAM, RAM - 8, u64::MAX - 15, u64::MAX] {
        assert_eq!(clock.arm(0, 0, &memory, cell), Err(BadClock), "{cell:#x}");
    }
    for apic_id in [255, 256, u32::MAX] {
        assert_eq!(clock.arm(0, apic_id, &memory, CELL), Err(BadClock));
    }
    assert_eq!(clock.arm(0, 254, &memory, RAM - 16), Ok(()));
}

#[test]
fn serving_ends_when_the_clock_is_closed() {
    let clock = Arc::new(HostClock::<GuestMemoryMmap>::new(2, PERIOD));
    let served = Arc::clone(&clock);
    let thread = std::thread::spawn(move || served.serve(|_| true));
    clock.close();
    thread.join().unwrap();
}

#[test]
fn a_served_clock_sends_to_whoever_is_armed_while_it_runs() {
    let clock = Arc::new(HostClock::new(2, PERIOD));
    let memory = memory();
    let served = Arc::clone(&clock);
    let (sender, sent) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || served.serve(|id| sender.send(id).is_ok()));
    memory
        .write_obj(1_u32, GuestAddress(CELL + BUSY as u64))
        .unwrap();
    clock.arm(1, 9, &memory, CELL).unwrap();
    clock.set_enabled(true);
    assert_eq!(sent.recv().unwrap(), 9);
    clock.close();
    thread.join().unwrap();
}

proptest! {
    #[test]
    fn every_period_of_an_armed_vcpu_is_counted_once(
        steps in prop::collection::vec((0u64..5 * PERIOD, any::<bool>(), any::<bool>(), any::<bool>()), 1..200),
        period in 10_000u64..10 * PERIOD,
    ) {
        let guest = Guest::new();
        guest.clock.set_period(period);
        let mut state = guest.clock.lock();
        let (mut now, first) = (state.grid, state.grid);
        for (step, busy, takes, handled) in steps {
            now += step;
            guest.set_busy(busy);
            state.tick(now, &mut |_| takes);
            if handled {
                guest.take();
            }
        }
        let ClockAccount { sent, idle, pending, refused, missed, .. } = state.account;
        let begun = (state.grid - first) / period;
        prop_assert_eq!(sent + idle + pending + refused + missed, begun);
    }
}
