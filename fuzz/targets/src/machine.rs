//! A device with a driver that does what it likes, and what must hold after each thing it does.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use oprofile_device::test_utils::fuzzing::WORK_PER_SYNC;
use oprofile_device::test_utils::{Descriptor, Ring, SyntheticGuest};
use oprofile_device::{Account, Device, EventReader, Interrupt, Settings};
use oprofile_wire::config::FLUSH_DOORBELL_OFFSET;
use oprofile_wire::control::{Response, kind};
use oprofile_wire::{CONTROL_QUEUE, QUEUE_SIZE, sample_queue};
use vm_memory::{Bytes, GuestAddress};
use zerocopy::{FromZeros, IntoBytes};

use crate::ram::{ACCESSES_PER_READ, WatchedRam};
use crate::scene::Scene;

/// vCPUs of a machine.
pub const VCPUS: u16 = 2;

/// Accesses for one chain: its descriptors (as many as the queue is long, perhaps in an indirect table), its bytes (a piece
/// for each, each of which may end in a hole), its answer, its place in both rings.
const ACCESSES_PER_CHAIN: u64 = 4 * QUEUE_SIZE as u64 + 32;

/// Accesses for one sync: the walk (see `objects`) and a queue full of chains.
const ACCESSES_PER_SYNC: u64 =
    ACCESSES_PER_READ * WORK_PER_SYNC + QUEUE_SIZE as u64 * ACCESSES_PER_CHAIN;

/// Accesses for a request by itself: its chain, and the check of a description.
const ACCESSES_PER_REQUEST: u64 = ACCESSES_PER_CHAIN + 4_096;

/// Room for one answer.
const ANSWER_BYTES: u32 = size_of::<Response>() as u32;

/// Status of an answer that has not come.
const UNANSWERED: u32 = u32::MAX;

/// Guest RAM that is left for chains, beyond what the scene took; when it is used up, it is used again from the start.
const CHAIN_BYTES: u64 = 1 << 20;

/// Counts interrupts.
#[derive(Debug, Default)]
struct Interrupts(AtomicU64);

impl Interrupt for Interrupts {
    fn signal_queue(&self, queue: u16) {
        assert!(queue <= VCPUS, "no such queue");
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn signal_config(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A device and a guest's driver.
#[derive(Debug)]
pub struct Machine {
    /// The device.
    pub device: Device<WatchedRam>,
    /// RAM as the device sees it.
    pub ram: Arc<WatchedRam>,
    /// The guest.
    pub scene: Scene,
    /// Rings by queue.
    pub rings: Vec<Ring>,
    reader: EventReader,
    /// Every word read so far.
    pub words: Vec<u64>,
    /// GPAs for chains: start, next.
    chains: (u64, u64),
    account: Account,
}

impl Machine {
    /// A machine whose device is not active. Only watched RAM changes while it is read.
    #[must_use]
    pub fn new(mut scene: Scene, settings: Settings, is_watched: bool) -> Self {
        let device = Device::new(settings).expect("the settings are valid");
        scene.keep_change_words();
        let memory = scene.guest.memory();
        let ram = Arc::new(WatchedRam::maybe_watched(&memory, is_watched));
        let start = scene.guest.allocate(CHAIN_BYTES);
        let rings = Self::new_rings(&mut scene.guest);
        let reader = device.open_events().expect("nobody else reads");
        Self {
            account: device.account(),
            device,
            ram,
            scene,
            rings,
            reader,
            words: Vec::new(),
            chains: (start, start),
        }
    }

    fn new_rings(guest: &mut SyntheticGuest) -> Vec<Ring> {
        let memory = guest.memory();
        (0..=VCPUS)
            .map(|_| Ring::new(Arc::clone(&memory), guest.allocate(Ring::BYTES)))
            .collect()
    }

    /// Activates the device with rings as they are; false when it refuses.
    pub fn activate(&mut self, features: u64) -> bool {
        let queues = self.rings.iter().map(Ring::queue).collect();
        let interrupts = Arc::new(Interrupts::default());
        self.device
            .activate(Arc::clone(&self.ram), queues, features, interrupts)
            .is_ok()
    }

    /// Resets the device and zeroes the rings.
    pub fn reset(&mut self) {
        self.step(|machine| machine.device.reset());
        let memory = self.scene.guest.memory();
        for ring in &mut self.rings {
            let base = ring.available_ring() - 2_048;
            let zeroes = [0; Ring::BYTES as usize];
            memory
                .write_slice(&zeroes, GuestAddress(base))
                .expect("rings are in RAM");
            *ring = Ring::new(Arc::clone(&memory), base);
        }
    }

    /// Resets the device and puts it into another guest, with other RAM.
    pub fn replace_guest(&mut self, mut scene: Scene) {
        self.step(|machine| machine.device.reset());
        scene.keep_change_words();
        self.ram = Arc::new(WatchedRam::new(&scene.guest.memory()));
        let start = scene.guest.allocate(CHAIN_BYTES);
        self.chains = (start, start);
        self.rings = Self::new_rings(&mut scene.guest);
        self.scene = scene;
    }

    /// Says hello as the guest is, and brings all vCPUs online; false when it is refused.
    pub fn hello(&mut self) -> bool {
        let guest = &self.scene.guest;
        let layout = guest.layout_bytes(guest.store());
        let request = SyntheticGuest::hello_request(&self.scene.guest.hello(), &layout);
        if self.request(&request) != Some(0) {
            return false;
        }
        for vcpu in 0..u32::from(VCPUS) {
            let state = [vcpu.to_le_bytes(), 1u32.to_le_bytes()].concat();
            self.request(&SyntheticGuest::request(kind::CPU_STATE, 0, &state));
        }
        true
    }

    /// Copies `bytes` to where chains lie.
    pub fn place(&mut self, bytes: &[u8]) -> u64 {
        let (start, mut gpa) = self.chains;
        let length = (bytes.len() as u64).min(CHAIN_BYTES);
        if gpa + length > start + CHAIN_BYTES {
            gpa = start;
        }
        self.chains.1 = gpa + length.next_multiple_of(8);
        self.ram
            .plain()
            .write_slice(&bytes[..length as usize], GuestAddress(gpa))
            .expect("chains are in RAM");
        gpa
    }

    /// Places `bytes` and cuts them into readable descriptors at these points.
    pub fn readable(&mut self, bytes: &[u8], cuts: &[u16]) -> Vec<Descriptor> {
        let gpa = self.place(bytes);
        let length = bytes.len().min(CHAIN_BYTES as usize) as u32;
        let mut cuts: Vec<u32> = cuts
            .iter()
            .take(8)
            .map(|&cut| u32::from(cut) % (length + 1))
            .chain([0, length])
            .collect();
        cuts.sort_unstable();
        cuts.windows(2)
            .map(|pair| Descriptor::readable(gpa + u64::from(pair[0]), pair[1] - pair[0]))
            .collect()
    }

    /// Posts a request in so many pieces; returns where its answer will be.
    pub fn post_request(&mut self, request: &[u8], cuts: &[u16]) -> u64 {
        let mut answer = Response::new_zeroed();
        answer.status = UNANSWERED.into();
        let room = self.place(answer.as_bytes());
        let mut chain = self.readable(request, cuts);
        chain.push(Descriptor::writable(room, ANSWER_BYTES));
        self.rings[usize::from(CONTROL_QUEUE)].post(&chain);
        room
    }

    /// The status at `room`, once it is there.
    #[must_use]
    pub fn answer(&self, room: u64) -> Option<u32> {
        let status = self.ram.plain().read_obj(GuestAddress(room));
        Some(u32::from_le(status.ok()?)).filter(|&status| status != UNANSWERED)
    }

    /// Posts a request and notifies the device; the status of the answer, if there is one.
    pub fn request(&mut self, request: &[u8]) -> Option<u32> {
        let room = self.post_request(request, &[]);
        self.step(|machine| machine.device.notify(CONTROL_QUEUE));
        self.answer(room)
    }

    /// Posts bytes as a sample buffer in so many pieces.
    pub fn post(&mut self, vcpu: u16, bytes: &[u8], cuts: &[u16]) {
        let chain = self.readable(bytes, cuts);
        self.rings[usize::from(sample_queue(vcpu))].post(&chain);
    }

    /// Rings the doorbell.
    pub fn ring(&mut self, vcpu: u32) {
        let bytes = vcpu.to_le_bytes();
        self.step(|machine| machine.device.write_config(FLUSH_DOORBELL_OFFSET, &bytes));
    }

    /// Does one thing, and checks what must hold after everything.
    pub fn step<R>(&mut self, act: impl FnOnce(&mut Self) -> R) -> R {
        let before = self.ram.accesses();
        let result = act(self);
        let accesses = self.ram.accesses() - before;
        self.check(accesses);
        result
    }

    /// No sample vanished, no counter went back, work is bounded.
    fn check(&mut self, accesses: u64) {
        let account = self.device.account();
        assert!(account.adds_up(), "{account:?}");
        for ((name, now), (_, before)) in account.iter().zip(self.account.iter()) {
            assert!(now >= before, "{name} went from {before} to {now}");
        }
        // Each request may sync every vCPU, and so may the step itself. What the guest posted while the device was
        // at work is not there, so each vCPU's queue is full at most once, and its walk takes its budget each time.
        let requests = account.requests - self.account.requests;
        let syncs = account.syncs - self.account.syncs;
        let bound = requests * ACCESSES_PER_REQUEST
            + syncs * ACCESSES_PER_SYNC
            + u64::from(VCPUS + 1) * ACCESSES_PER_CHAIN;
        assert!(
            accesses <= bound,
            "{accesses} accesses for {requests} requests and {syncs} syncs"
        );
        assert!(requests <= u64::from(QUEUE_SIZE) * 16);
        // A reset syncs twice.
        assert!(syncs <= (requests + 2) * u64::from(VCPUS));
        self.account = account;
    }

    /// Reads the event buffer.
    pub fn read(&mut self) {
        let count = self.reader.read(&mut self.words);
        assert!(count <= self.device.settings().buffer_size);
    }
}
