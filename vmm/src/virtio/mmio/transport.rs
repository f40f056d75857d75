//! The register window.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use vm_memory::GuestMemoryMmap;

use super::interrupt::MmioInterrupt;
use super::queues::{self, QueueRegisters, set_half};
use super::registers::{self as reg, status};
use crate::bus::{BusDevice, Effect};
use crate::virtio::VirtioDevice;

/// Steps of initialisation in their order, each with what must be set before (virtio 1.2 §3.1.1).
const STEPS: [(u32, u32); 4] = [
    (status::ACKNOWLEDGE, 0),
    (status::DRIVER, status::ACKNOWLEDGE),
    (status::FEATURES_OK, status::ACKNOWLEDGE | status::DRIVER),
    (
        status::DRIVER_OK,
        status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK,
    ),
];

#[derive(Debug)]
struct State {
    status: u32,
    device_features_sel: u32,
    driver_features_sel: u32,
    driver_features: u64,
    queue_sel: u32,
    queues: Vec<QueueRegisters>,
    /// The device has the queues.
    active: bool,
}

impl State {
    fn new(sizes: &[u16]) -> Self {
        Self {
            status: 0,
            device_features_sel: 0,
            driver_features_sel: 0,
            driver_features: 0,
            queue_sel: 0,
            queues: sizes
                .iter()
                .map(|size| QueueRegisters::new(*size))
                .collect(),
            active: false,
        }
    }

    fn selected(&self) -> Option<&QueueRegisters> {
        self.queues.get(usize::try_from(self.queue_sel).ok()?)
    }

    /// The selected queue, if the driver may change it now: features are settled, and the device does not have it.
    fn selected_mut(&mut self) -> Option<&mut QueueRegisters> {
        if self.status & status::FEATURES_OK == 0 || self.active {
            return None;
        }
        self.queues.get_mut(usize::try_from(self.queue_sel).ok()?)
    }

    /// As [`State::selected_mut`], and the queue is not ready: its registers must not change afterwards (§4.2.2.2).
    fn unready_mut(&mut self) -> Option<&mut QueueRegisters> {
        self.selected_mut().filter(|queue| !queue.ready)
    }
}

/// A device behind a virtio-mmio window.
pub struct MmioTransport {
    device: Arc<dyn VirtioDevice>,
    memory: Arc<GuestMemoryMmap>,
    interrupt: Arc<MmioInterrupt>,
    state: Mutex<State>,
}

impl fmt::Debug for MmioTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MmioTransport")
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

impl MmioTransport {
    /// A window to `device`, as after a reset.
    pub fn new(
        device: Arc<dyn VirtioDevice>,
        memory: Arc<GuestMemoryMmap>,
        interrupt: Arc<MmioInterrupt>,
    ) -> Self {
        let state = Mutex::new(State::new(&device.queue_sizes()));
        Self {
            device,
            memory,
            interrupt,
            state,
        }
    }

    /// Registers are valid one by one, so a panic of another thread under the lock does no harm.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_register(&self, offset: u64) -> u32 {
        let state = self.lock();
        match offset {
            reg::MAGIC_VALUE => reg::MAGIC,
            reg::VERSION_NUMBER => reg::VERSION,
            reg::DEVICE_ID => self.device.id(),
            reg::VENDOR_ID => reg::VENDOR,
            reg::DEVICE_FEATURES => half(self.device.features(), state.device_features_sel),
            reg::QUEUE_NUM_MAX => state
                .selected()
                .map_or(0, |queue| u32::from(queue.max_size)),
            reg::QUEUE_READY => state.selected().map_or(0, |queue| u32::from(queue.ready)),
            reg::INTERRUPT_STATUS => self.interrupt.status(),
            reg::STATUS => state.status,
            // No shared memory region has this id: length and base are all ones (§4.2.2, SHMLen and SHMBase).
            reg::SHM_LEN_LOW | reg::SHM_LEN_HIGH | reg::SHM_BASE_LOW | reg::SHM_BASE_HIGH => {
                u32::MAX
            }
            reg::CONFIG_GENERATION => self.interrupt.generation(),
            _ => 0,
        }
    }

    fn write_register(&self, offset: u64, value: u32) {
        match offset {
            // Without the lock: the device has its own, and a status change must be able to wait for it.
            reg::QUEUE_NOTIFY => {
                if let Ok(queue) = u16::try_from(value) {
                    self.device.notify(queue);
                }
                return;
            }
            reg::INTERRUPT_ACK => return self.interrupt.acknowledge(value),
            _ => {}
        }
        let mut state = self.lock();
        match offset {
            reg::DEVICE_FEATURES_SEL => state.device_features_sel = value,
            reg::DRIVER_FEATURES_SEL => state.driver_features_sel = value,
            reg::DRIVER_FEATURES => self.accept_features(&mut state, value),
            reg::QUEUE_SEL => state.queue_sel = value,
            reg::QUEUE_READY => {
                if let Some(queue) = state.selected_mut() {
                    queue.ready = value == 1;
                }
            }
            reg::STATUS => self.write_status(&mut state, value),
            _ => {
                if let Some(queue) = state.unready_mut() {
                    match offset {
                        reg::QUEUE_NUM => queue.size = value,
                        reg::QUEUE_DESC_LOW => set_half(&mut queue.descriptors, false, value),
                        reg::QUEUE_DESC_HIGH => set_half(&mut queue.descriptors, true, value),
                        reg::QUEUE_DRIVER_LOW => set_half(&mut queue.driver, false, value),
                        reg::QUEUE_DRIVER_HIGH => set_half(&mut queue.driver, true, value),
                        reg::QUEUE_DEVICE_LOW => set_half(&mut queue.device, false, value),
                        reg::QUEUE_DEVICE_HIGH => set_half(&mut queue.device, true, value),
                        _ => {}
                    }
                }
            }
        }
    }

    /// Features can be chosen while the driver is known and the choice is not settled.
    fn accept_features(&self, state: &mut State, value: u32) {
        let choosing = state.status & (status::DRIVER | status::FEATURES_OK) == status::DRIVER;
        if choosing && state.driver_features_sel < 2 {
            let high = state.driver_features_sel == 1;
            set_half(&mut state.driver_features, high, value);
        }
    }

    fn write_status(&self, state: &mut State, value: u32) {
        if value == 0 {
            return self.reset(state);
        }
        // A driver must not clear bits (§2.1.1), and a device that failed wants a reset first.
        let broken = status::FAILED | status::DEVICE_NEEDS_RESET;
        if state.status & !value & !status::DEVICE_NEEDS_RESET != 0 {
            tracing::debug!(
                "Driver cleared status bits: {:#x} to {value:#x}",
                state.status
            );
            return;
        }
        state.status |= value & status::FAILED;
        for (bit, required) in STEPS {
            let new = value & bit & !state.status;
            if new == 0 || state.status & required != required || state.status & broken != 0 {
                continue;
            }
            if new == status::FEATURES_OK && !self.features_fit(state.driver_features) {
                continue;
            }
            state.status |= new;
            if new == status::DRIVER_OK {
                self.activate(state);
            }
        }
    }

    /// A subset of the offer, and not a legacy driver's.
    fn features_fit(&self, accepted: u64) -> bool {
        accepted & !self.device.features() == 0 && accepted & (1 << VIRTIO_F_VERSION_1) != 0
    }

    fn activate(&self, state: &mut State) {
        let built = queues::build(&state.queues).map_err(Into::into);
        let activated = built.and_then(|queues| {
            self.device.activate(
                Arc::clone(&self.memory),
                queues,
                state.driver_features,
                self.interrupt.clone(),
            )
        });
        match activated {
            Ok(()) => state.active = true,
            Err(error) => {
                tracing::warn!("Virtio device {} not activated: {error}", self.device.id());
                state.status |= status::DEVICE_NEEDS_RESET;
                self.interrupt.raise(reg::interrupt::CONFIG);
            }
        }
    }

    fn reset(&self, state: &mut State) {
        if state.active {
            self.device.reset();
        }
        *state = State::new(&self.device.queue_sizes());
        self.interrupt.reset();
    }
}

impl BusDevice for MmioTransport {
    fn read(&self, offset: u64, data: &mut [u8]) {
        if let Some(offset) = offset.checked_sub(reg::CONFIG) {
            return self.device.read_config(offset, data);
        }
        // Registers take aligned accesses of 4 bytes and no others (§4.2.2.2).
        match <&mut [u8; 4]>::try_from(&mut *data) {
            Ok(word) if offset.is_multiple_of(4) => {
                *word = self.read_register(offset).to_le_bytes();
            }
            _ => data.fill(0),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> Effect {
        // Without the lock: a write may keep this vCPU for long, and others must get through meanwhile.
        if let Some(offset) = offset.checked_sub(reg::CONFIG) {
            self.device.write_config(offset, data);
        } else if let Ok(word) = <[u8; 4]>::try_from(data)
            && offset.is_multiple_of(4)
        {
            self.write_register(offset, u32::from_le_bytes(word));
        }
        Effect::None
    }
}

/// Half of a feature word; there are only two.
fn half(features: u64, select: u32) -> u32 {
    let shifted = features.checked_shr(select.saturating_mul(32)).unwrap_or(0);
    u32::try_from(shifted & 0xffff_ffff).unwrap_or(0)
}

#[cfg(test)]
#[path = "transport_tests.rs"]
mod tests;
