//! The window against a device that records what reaches it.

use std::error::Error;
use std::sync::Mutex;

use virtio_queue::{Queue, QueueT};
use vm_memory::GuestAddress;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::super::registers::interrupt;
use super::*;
use crate::virtio::Interrupt;

const FEATURE: u64 = 1 << 29;
const FEATURES: u64 = 1 << VIRTIO_F_VERSION_1 | FEATURE;

#[derive(Default)]
struct Fake {
    refuses: bool,
    activated: Mutex<Option<(Vec<Queue>, u64)>>,
    resets: Mutex<u32>,
    notified: Mutex<Vec<u16>>,
    config: Mutex<Vec<(u64, Vec<u8>)>>,
}

impl VirtioDevice for Fake {
    fn id(&self) -> u32 {
        42
    }

    fn features(&self) -> u64 {
        FEATURES
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![8, 128]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        data.fill(u8::try_from(offset).unwrap());
    }

    fn write_config(&self, offset: u64, data: &[u8]) {
        self.config.lock().unwrap().push((offset, data.to_vec()));
    }

    fn activate(
        &self,
        _memory: Arc<GuestMemoryMmap>,
        queues: Vec<Queue>,
        features: u64,
        _interrupt: Arc<dyn Interrupt>,
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        if self.refuses {
            return Err("no".into());
        }
        *self.activated.lock().unwrap() = Some((queues, features));
        Ok(())
    }

    fn reset(&self) {
        *self.resets.lock().unwrap() += 1;
    }

    fn notify(&self, queue: u16) {
        self.notified.lock().unwrap().push(queue);
    }
}

struct Window {
    device: Arc<Fake>,
    interrupt: Arc<MmioInterrupt>,
    irq: EventFd,
    transport: MmioTransport,
}

impl Window {
    fn new() -> Self {
        Self::with(Fake::default())
    }

    fn with(device: Fake) -> Self {
        let device = Arc::new(device);
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x10000)]).unwrap();
        let irq = EventFd::new(EFD_NONBLOCK).unwrap();
        let interrupt = Arc::new(MmioInterrupt::new(irq.try_clone().unwrap()));
        let transport =
            MmioTransport::new(device.clone(), Arc::new(memory), Arc::clone(&interrupt));
        Self {
            device,
            interrupt,
            irq,
            transport,
        }
    }

    fn get(&self, offset: u64) -> u32 {
        let mut data = [0; 4];
        self.transport.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    fn set(&self, offset: u64, value: u32) {
        self.transport.write(offset, &value.to_le_bytes());
    }

    /// Status after adding `bits`.
    fn add(&self, bits: u32) -> u32 {
        self.set(reg::STATUS, self.get(reg::STATUS) | bits);
        self.get(reg::STATUS)
    }

    fn accept(&self, features: u64) {
        for select in [0, 1] {
            self.set(reg::DRIVER_FEATURES_SEL, select);
            self.set(reg::DRIVER_FEATURES, half(features, select));
        }
    }

    fn to_features_ok(&self) {
        self.add(status::ACKNOWLEDGE);
        self.add(status::DRIVER);
        self.accept(FEATURES);
        assert_eq!(self.add(status::FEATURES_OK), 1 | 2 | 8);
    }

    fn set_up_queue(&self, queue: u32, size: u32) {
        self.set(reg::QUEUE_SEL, queue);
        self.set(reg::QUEUE_NUM, size);
        self.set(reg::QUEUE_DESC_LOW, 0x1000);
        self.set(reg::QUEUE_DRIVER_LOW, 0x2000);
        self.set(reg::QUEUE_DEVICE_LOW, 0x3000);
        self.set(reg::QUEUE_DEVICE_HIGH, 1);
        self.set(reg::QUEUE_READY, 1);
    }

    fn to_driver_ok(&self) -> u32 {
        self.to_features_ok();
        self.set_up_queue(1, 64);
        self.add(status::DRIVER_OK)
    }

    fn raised(&self) -> bool {
        self.irq.read().is_ok()
    }
}

#[test]
fn identification_is_a_version_2_window() {
    let window = Window::new();
    assert_eq!(window.get(0x000), u32::from_le_bytes(*b"virt"));
    assert_eq!(window.get(0x004), 2);
    assert_eq!(window.get(0x008), 42);
    assert_ne!(window.get(0x00c), 0);
}

#[test]
fn features_are_read_in_halves() {
    let window = Window::new();
    for (select, expected) in [(0, 1 << 29), (1, 1), (2, 0), (u32::MAX, 0)] {
        window.set(reg::DEVICE_FEATURES_SEL, select);
        assert_eq!(window.get(reg::DEVICE_FEATURES), expected, "{select}");
    }
}

#[test]
fn a_driver_that_goes_by_the_book_gets_its_device() {
    let window = Window::new();
    assert_eq!(window.to_driver_ok(), 1 | 2 | 4 | 8);
    let activated = window.device.activated.lock().unwrap();
    let (queues, features) = activated.as_ref().unwrap();
    assert_eq!(*features, FEATURES);
    assert_eq!(queues.len(), 2);
    assert!(!queues[0].ready());
    assert!(queues[1].ready());
    assert_eq!(queues[1].size(), 64);
    assert_eq!(queues[1].desc_table(), 0x1000);
    assert_eq!(queues[1].avail_ring(), 0x2000);
    assert_eq!(queues[1].used_ring(), 0x1_0000_3000);
}

#[test]
fn features_that_were_not_offered_are_not_settled() {
    let window = Window::new();
    window.add(status::ACKNOWLEDGE);
    window.add(status::DRIVER);
    window.accept(FEATURES | 1);
    assert_eq!(window.add(status::FEATURES_OK), 1 | 2);
    window.accept(FEATURES);
    assert_eq!(window.add(status::FEATURES_OK), 1 | 2 | 8);
}

#[test]
fn a_legacy_drivers_features_are_not_settled() {
    let window = Window::new();
    window.add(status::ACKNOWLEDGE);
    window.add(status::DRIVER);
    window.accept(FEATURE);
    assert_eq!(window.add(status::FEATURES_OK), 1 | 2);
}

#[test]
fn settled_features_do_not_change() {
    let window = Window::new();
    window.to_features_ok();
    window.accept(0);
    window.add(status::DRIVER_OK);
    let activated = window.device.activated.lock().unwrap();
    assert_eq!(activated.as_ref().unwrap().1, FEATURES);
}

#[test]
fn steps_cannot_be_left_out() {
    let window = Window::new();
    assert_eq!(window.add(status::DRIVER), 0);
    assert_eq!(window.add(status::ACKNOWLEDGE), 1);
    assert_eq!(window.add(status::DRIVER_OK), 1);
    assert!(window.device.activated.lock().unwrap().is_none());
}

#[test]
fn status_bits_are_cleared_by_reset_only() {
    let window = Window::new();
    window.to_features_ok();
    window.set(reg::STATUS, 1);
    assert_eq!(window.get(reg::STATUS), 1 | 2 | 8);
    window.set(reg::STATUS, 0);
    assert_eq!(window.get(reg::STATUS), 0);
}

#[test]
fn a_failed_driver_goes_no_further() {
    let window = Window::new();
    window.to_features_ok();
    window.add(status::FAILED);
    assert_eq!(window.add(status::DRIVER_OK), 1 | 2 | 8 | 128);
}

#[test]
fn queues_are_described_by_selection() {
    let window = Window::new();
    for (select, size) in [(0, 8), (1, 128), (2, 0), (u32::MAX, 0)] {
        window.set(reg::QUEUE_SEL, select);
        assert_eq!(window.get(reg::QUEUE_NUM_MAX), size, "{select}");
    }
}

#[test]
fn queue_registers_stand_still_before_features_and_after_ready() {
    let window = Window::new();
    window.set_up_queue(1, 64);
    assert_eq!(window.get(reg::QUEUE_READY), 0);
    window.to_features_ok();
    window.set_up_queue(1, 64);
    assert_eq!(window.get(reg::QUEUE_READY), 1);
    window.set(reg::QUEUE_DESC_LOW, 0x4000);
    window.add(status::DRIVER_OK);
    window.set(reg::QUEUE_READY, 0);
    assert_eq!(window.get(reg::QUEUE_READY), 1);
    let activated = window.device.activated.lock().unwrap();
    assert_eq!(activated.as_ref().unwrap().0[1].desc_table(), 0x1000);
}

#[test]
fn a_queue_that_is_not_ready_again_can_be_changed() {
    let window = Window::new();
    window.to_features_ok();
    window.set_up_queue(1, 64);
    window.set(reg::QUEUE_READY, 0);
    window.set_up_queue(1, 32);
    window.add(status::DRIVER_OK);
    let activated = window.device.activated.lock().unwrap();
    assert_eq!(activated.as_ref().unwrap().0[1].size(), 32);
}

#[test]
fn a_badly_set_up_queue_needs_a_reset() {
    for size in [0, 3, 256, 1 << 16] {
        let window = Window::new();
        window.to_features_ok();
        window.set_up_queue(1, size);
        assert_eq!(window.add(status::DRIVER_OK), 1 | 2 | 4 | 8 | 64, "{size}");
        assert!(window.raised());
        assert_eq!(window.get(reg::INTERRUPT_STATUS), interrupt::CONFIG);
        assert!(window.device.activated.lock().unwrap().is_none());
    }
}

#[test]
fn a_device_that_refuses_needs_a_reset() {
    let window = Window::with(Fake {
        refuses: true,
        ..Fake::default()
    });
    assert_eq!(window.to_driver_ok(), 1 | 2 | 4 | 8 | 64);
    window.set(reg::STATUS, 0);
    assert_eq!(*window.device.resets.lock().unwrap(), 0);
    assert_eq!(window.get(reg::STATUS), 0);
}

#[test]
fn reset_gives_queues_back_and_the_driver_may_start_again() {
    let window = Window::new();
    window.to_driver_ok();
    window.interrupt.signal_queue(1);
    window.set(reg::STATUS, 0);
    assert_eq!(*window.device.resets.lock().unwrap(), 1);
    assert_eq!(window.get(reg::INTERRUPT_STATUS), 0);
    window.set(reg::QUEUE_SEL, 1);
    assert_eq!(window.get(reg::QUEUE_READY), 0);
    window.device.activated.lock().unwrap().take();
    assert_eq!(window.to_driver_ok(), 1 | 2 | 4 | 8);
    assert!(window.device.activated.lock().unwrap().is_some());
}

#[test]
fn interrupt_status_tells_the_reasons_until_they_are_acknowledged() {
    let window = Window::new();
    window.interrupt.signal_queue(0);
    window.interrupt.signal_config();
    assert!(window.raised());
    assert_eq!(window.get(reg::INTERRUPT_STATUS), 3);
    window.set(reg::INTERRUPT_ACK, interrupt::USED);
    assert_eq!(window.get(reg::INTERRUPT_STATUS), interrupt::CONFIG);
    window.set(reg::INTERRUPT_ACK, u32::MAX);
    assert_eq!(window.get(reg::INTERRUPT_STATUS), 0);
}

#[test]
fn generation_changes_with_the_configuration() {
    let window = Window::new();
    let before = window.get(reg::CONFIG_GENERATION);
    window.interrupt.signal_queue(0);
    assert_eq!(window.get(reg::CONFIG_GENERATION), before);
    window.interrupt.signal_config();
    assert_ne!(window.get(reg::CONFIG_GENERATION), before);
}

#[test]
fn notifications_reach_the_device_with_their_queue() {
    let window = Window::new();
    window.set(reg::QUEUE_NOTIFY, 1);
    window.set(reg::QUEUE_NOTIFY, 0x1_0000);
    assert_eq!(*window.device.notified.lock().unwrap(), [1]);
}

#[test]
fn configuration_space_takes_accesses_of_any_width() {
    let window = Window::new();
    let mut byte = [0];
    window.transport.read(0x103, &mut byte);
    assert_eq!(byte, [3]);
    let mut wide = [0; 8];
    window.transport.read(0x110, &mut wide);
    assert_eq!(wide, [16; 8]);
    window.transport.write(0x130, &[1, 2, 3, 4]);
    let written = window.device.config.lock().unwrap();
    assert_eq!(*written, [(0x30, vec![1, 2, 3, 4])]);
}

#[test]
fn registers_take_aligned_words_only() {
    let window = Window::new();
    for (offset, length) in [(0, 1), (0, 2), (1, 4), (2, 4), (0, 8)] {
        let mut data = vec![0xff; length];
        window.transport.read(offset, &mut data);
        assert_eq!(data, vec![0; length], "{offset} {length}");
    }
    window.transport.write(reg::STATUS, &[1]);
    window.transport.write(reg::STATUS, &[1, 0]);
    assert_eq!(window.get(reg::STATUS), 0);
}

#[test]
fn there_is_no_shared_memory() {
    let window = Window::new();
    for offset in [0xb0, 0xb4, 0xb8, 0xbc] {
        assert_eq!(window.get(offset), u32::MAX);
    }
}
