//! A driver: a device, a guest, and what goes between them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use oprofile_wire::config::FLUSH_DOORBELL_OFFSET;
use oprofile_wire::control::{Response, kind};
use oprofile_wire::{CONTROL_QUEUE, sample_queue};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::{BufferBuilder, Descriptor, Ring, SyntheticGuest};
use crate::{Device, EventReader, Interrupt, Settings};

/// Counts interrupts.
#[derive(Debug, Default)]
pub struct Interrupts {
    queues: Mutex<Vec<u16>>,
    config: AtomicU64,
}

impl Interrupts {
    /// Queues that were signalled since this was asked last.
    pub fn take_queues(&self) -> Vec<u16> {
        std::mem::take(&mut *self.queues.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Configuration interrupts so far.
    pub fn config(&self) -> u64 {
        self.config.load(Ordering::Relaxed)
    }
}

impl Interrupt for Interrupts {
    fn signal_queue(&self, queue: u16) {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        queues.push(queue);
    }

    fn signal_config(&self) {
        self.config.fetch_add(1, Ordering::Relaxed);
    }
}

/// An active device and the driver's side of it.
#[derive(Debug)]
pub struct Driver {
    /// The device.
    pub device: Arc<Device<GuestMemoryMmap>>,
    /// The guest.
    pub guest: SyntheticGuest,
    /// The rings; index is the queue.
    pub rings: Vec<Ring>,
    /// Its interrupts.
    pub interrupts: Arc<Interrupts>,
    /// The reader of the event buffer.
    pub reader: EventReader,
    sequences: Vec<u64>,
}

impl Driver {
    /// Activates a device for `guest` with all features. Says no hello.
    #[must_use]
    pub fn new(guest: SyntheticGuest, vcpus: u16) -> Self {
        let settings = Settings {
            vcpus,
            ..Settings::default()
        };
        Self::with_settings(guest, settings)
    }

    /// As [`Driver::new`], with these settings.
    #[must_use]
    pub fn with_settings(mut guest: SyntheticGuest, settings: Settings) -> Self {
        let vcpus = usize::from(settings.vcpus);
        let device = Arc::new(Device::new(settings).unwrap());
        let memory = guest.memory();
        let rings: Vec<Ring> = (0..=vcpus)
            .map(|_| Ring::new(Arc::clone(&memory), guest.allocate(Ring::BYTES)))
            .collect();
        let interrupts = Arc::new(Interrupts::default());
        let reader = device.open_events().unwrap();
        let driver = Self {
            device,
            guest,
            rings,
            interrupts,
            reader,
            sequences: vec![0; vcpus],
        };
        driver.activate(driver.device.features());
        driver
    }

    /// Activates the device with rings as they are.
    pub fn activate(&self, features: u64) {
        let queues = self.rings.iter().map(Ring::queue).collect();
        let interrupts: Arc<dyn Interrupt> = Arc::<Interrupts>::clone(&self.interrupts);
        self.device
            .activate(self.guest.memory(), queues, features, interrupts)
            .unwrap();
    }

    /// Says hello, which must be accepted, and brings all vCPUs online.
    #[must_use]
    pub fn hello(mut self) -> Self {
        let layout = self.guest.layout_bytes(self.guest.store());
        let request = SyntheticGuest::hello_request(&self.guest.hello(), &layout);
        assert_eq!(self.request(&request).status.get(), 0);
        for vcpu in 0..self.sequences.len() {
            self.set_online(u32::try_from(vcpu).unwrap(), true);
        }
        self
    }

    /// Brings a vCPU on or offline.
    pub fn set_online(&mut self, vcpu: u32, online: bool) {
        let state = [vcpu.to_le_bytes(), u32::from(online).to_le_bytes()].concat();
        let request = SyntheticGuest::request(kind::CPU_STATE, 0, &state);
        assert_eq!(self.request(&request).status.get(), 0);
    }

    /// Copies `bytes` into new guest memory.
    pub fn place(&mut self, bytes: &[u8]) -> u64 {
        let gpa = self.guest.allocate(bytes.len() as u64);
        let memory = self.guest.memory();
        memory.write_slice(bytes, GuestAddress(gpa)).unwrap();
        gpa
    }

    /// Posts a request without waiting; returns where its answer will be.
    pub fn post_request(&mut self, request: &[u8]) -> u64 {
        let mut answer = Response::new_zeroed();
        answer.status = u32::MAX.into();
        let room = self.place(answer.as_bytes());
        let gpa = self.place(request);
        let length = u32::try_from(request.len()).unwrap();
        self.rings[usize::from(CONTROL_QUEUE)].post(&[
            Descriptor::readable(gpa, length),
            Descriptor::writable(room, 16),
        ]);
        self.device.notify(CONTROL_QUEUE);
        room
    }

    /// The answer at `room`, once it is there.
    #[must_use]
    pub fn answer(&self, room: u64) -> Option<Response> {
        let mut bytes = [0; size_of::<Response>()];
        let memory = self.guest.memory();
        memory.read_slice(&mut bytes, GuestAddress(room)).unwrap();
        let answer = Response::read_from_bytes(&bytes).unwrap();
        (answer.status.get() != u32::MAX).then_some(answer)
    }

    /// Posts a request that is answered at once.
    pub fn request(&mut self, request: &[u8]) -> Response {
        let room = self.post_request(request);
        self.answer(room).unwrap()
    }

    /// The next buffer of `vcpu`.
    pub fn buffer(&mut self, vcpu: u16) -> BufferBuilder {
        let sequence = &mut self.sequences[usize::from(vcpu)];
        *sequence += 1;
        BufferBuilder::new(vcpu.into(), *sequence - 1)
    }

    /// Posts bytes as a sample buffer, quietly; returns the chain's head.
    pub fn post_bytes(&mut self, vcpu: u16, bytes: &[u8]) -> u16 {
        let gpa = self.place(bytes);
        let length = u32::try_from(bytes.len()).unwrap();
        self.rings[usize::from(sample_queue(vcpu))].post(&[Descriptor::readable(gpa, length)])
    }

    /// Posts a sample buffer, quietly.
    pub fn post(&mut self, vcpu: u16, buffer: &BufferBuilder) -> u16 {
        self.post_bytes(vcpu, &buffer.build())
    }

    /// Rings the doorbell.
    pub fn ring(&self, vcpu: u32) {
        let bytes = vcpu.to_le_bytes();
        self.device.write_config(FLUSH_DOORBELL_OFFSET, &bytes);
    }

    /// What is in the event buffer.
    pub fn words(&mut self) -> Vec<u64> {
        let mut words = Vec::new();
        self.reader.read(&mut words);
        words
    }

    /// Checks that no sample vanished, and that a well-behaved vCPU's sample is still counted as a kernel sample.
    pub fn assert_lives(&mut self, vcpu: u16) {
        let before = self.device.account();
        let task = self.guest.init_task();
        let buffer = self.buffer(vcpu).kernel(task).sample(super::KERNEL_START);
        self.post(vcpu, &buffer);
        self.device.tick();
        let account = self.device.account();
        assert_eq!(account.sync.kernel, before.sync.kernel + 1);
        assert!(account.adds_up(), "{account:?}");
    }
}
