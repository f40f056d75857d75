//! The whole device, driven by a guest that does anything in any order: rings, descriptors, requests, buffers, kernel
//! objects, configuration, resets, and changes while the device reads.
//!
//! After each step no sample may have vanished and work must have been bounded; after all of it the device must serve another
//! guest as if nothing had been.

use arbitrary::{Arbitrary, Unstructured};
use oprofile_device::Settings;
use oprofile_device::test_utils::{BufferBuilder, Descriptor, KERNEL_START};
use oprofile_wire::{QUEUE_SIZE, sample_queue};
use vm_memory::{Bytes, GuestAddress};

use crate::control_requests::{Request, check_kernel};
use crate::layouts::{self, Kernel};
use crate::machine::{Machine, VCPUS};
use crate::sample_buffers::Buffer;
use crate::scene::{Patch, Scene, ScenePlan};

/// Most steps of an input.
const MAX_STEPS: usize = 64;

#[derive(Arbitrary, Debug)]
struct Input {
    is_watched: bool,
    scene: ScenePlan,
    kernel: u8,
    small_event_buffer: bool,
    says_hello: bool,
    survives: bool,
    steps: Vec<Step>,
}

#[derive(Arbitrary, Debug)]
enum Step {
    Post(Buffer),
    Request(Request, Vec<u16>, bool),
    Notify(u16),
    Ring(u32),
    Tick,
    Dump,
    Read,
    WriteConfig(u64, Vec<u8>),
    ReadConfig(u64, u8),
    Enable(bool),
    /// A descriptor of a queue is overwritten.
    Descriptor(u8, u8, Address, u32, u16, u16),
    Publish(u8, u16),
    SetAvailable(u8, u16),
    /// A word of a ring's memory is overwritten.
    RingWord(u8, u16, u64),
    Patch(Patch),
    Meanwhile(Vec<(u16, Patch)>),
    Reset,
    Activate(u64),
    Hello,
}

#[derive(Arbitrary, Debug)]
enum Address {
    Low(u32),
    /// In a ring.
    Ring(u8, u16),
    Raw(u64),
}

/// Runs the target.
///
/// # Panics
/// When it finds something.
pub fn run(data: &[u8]) {
    if let Ok(input) = Input::arbitrary_take_rest(Unstructured::new(data)) {
        drive(&input);
    }
}

fn drive(input: &Input) {
    let (buffer_size, buffer_watershed) = match input.small_event_buffer {
        true => (64, 16),
        false => (8_192, 4_096),
    };
    let settings = Settings {
        vcpus: VCPUS,
        buffer_size,
        buffer_watershed,
        ..Settings::default()
    };
    let kernel = match input.kernel % 4 {
        0 => layouts::LIST,
        1 => layouts::TINY,
        2 => layouts::RB_TREE,
        _ => layouts::MAPLE,
    };
    let mut machine = Machine::new(Scene::new(&input.scene, kernel), settings, input.is_watched);
    if input.says_hello {
        assert!(machine.activate(machine.device.features()));
        assert!(machine.hello(), "the guest is as it says");
    }
    let mut sequence = 0;
    for step in input.steps.iter().take(MAX_STEPS) {
        step.take(&mut machine, &mut sequence);
        machine.step(|_| ());
        if let Some(kernel) = machine.device.kernel() {
            check_kernel(&kernel);
        }
    }
    if input.survives {
        survive(&mut machine, kernel);
    } else {
        machine.reset();
    }
}

/// A device that has seen all that serves a good guest.
fn survive(machine: &mut Machine, kernel: Kernel) {
    machine.replace_guest(Scene::new(&ScenePlan::default(), kernel));
    assert!(machine.activate(machine.device.features()));
    assert!(machine.hello(), "the guest is as it says");
    let before = machine.device.account();
    let task = machine.scene.guest.init_task();
    let buffer = BufferBuilder::new(0, 0).kernel(task).sample(KERNEL_START);
    machine.read();
    machine.post(0, &buffer.build(), &[]);
    machine.ring(0);
    let account = machine.device.account();
    assert_eq!(account.sync.kernel, before.sync.kernel + 1);
    assert_eq!(account.faults, before.faults);
}

impl Step {
    fn take(&self, machine: &mut Machine, sequence: &mut u64) {
        let queue = |index: u8| usize::from(index) % usize::from(VCPUS + 1);
        match self {
            Self::Post(buffer) => {
                let vcpu = u16::from(buffer.second_vcpu);
                let (bytes, _) = buffer.bytes(machine, vcpu, *sequence);
                *sequence += 1;
                machine.post(vcpu, &bytes, &buffer.cuts);
            }
            Self::Request(request, cuts, quietly) => {
                let bytes = request.bytes(&machine.scene);
                machine.post_request(&bytes, cuts);
                if !quietly {
                    machine.step(|machine| machine.device.notify(0));
                }
            }
            Self::Notify(queue) => {
                // Mostly one that there is.
                let queue = match queue % 8 {
                    0 => *queue,
                    index => index % sample_queue(VCPUS),
                };
                machine.step(|machine| machine.device.notify(queue));
            }
            Self::Ring(vcpu) => {
                let vcpu = match vcpu % 8 {
                    0 => *vcpu,
                    index => index % u32::from(VCPUS),
                };
                machine.ring(vcpu);
            }
            Self::Tick => machine.step(|machine| machine.device.tick()),
            Self::Dump => machine.step(|machine| machine.device.dump()),
            Self::Read => {
                machine.read();
                machine.words.clear();
            }
            Self::WriteConfig(offset, bytes) => {
                machine.step(|machine| machine.device.write_config(offset % 80, bytes));
            }
            Self::ReadConfig(offset, bytes) => {
                let mut data = vec![0xee; usize::from(*bytes)];
                machine.step(|machine| machine.device.read_config(*offset, &mut data));
                let outside = data.len().saturating_sub(64);
                assert!(data.iter().rev().take(outside).all(|&byte| byte == 0));
            }
            Self::Enable(enabled) => machine.step(|machine| machine.device.set_enabled(*enabled)),
            Self::Descriptor(index, id, address, length, flags, next) => {
                let address = match address {
                    Address::Low(gpa) => u64::from(*gpa) % (17 << 20),
                    Address::Ring(ring, offset) => {
                        machine.rings[queue(*ring)].available_ring() + u64::from(*offset % 8_192)
                    }
                    Address::Raw(gpa) => *gpa,
                };
                let descriptor = Descriptor {
                    address,
                    length: *length,
                    flags: flags % 8,
                    next: next % (QUEUE_SIZE + 8),
                };
                let id = u16::from(*id) % QUEUE_SIZE;
                machine.rings[queue(*index)].set_descriptor(id, descriptor);
            }
            Self::Publish(index, head) => {
                machine.rings[queue(*index)].publish(head % (QUEUE_SIZE + 4));
            }
            Self::SetAvailable(index, available) => {
                machine.rings[queue(*index)].set_available(*available);
            }
            Self::RingWord(index, offset, word) => {
                let base = machine.rings[queue(*index)].available_ring() - 2_048;
                let gpa = GuestAddress(base + u64::from(offset % 8_190));
                let memory = machine.scene.guest.memory();
                // The last bytes of RAM may be a ring's.
                let _ = memory.write_slice(&word.to_le_bytes()[..2], gpa);
            }
            Self::Patch(patch) => patch.apply(&machine.scene),
            Self::Meanwhile(patches) => {
                let changes: Vec<_> = patches
                    .iter()
                    .take(16)
                    .map(|(after, patch)| patch.change(&machine.scene, (*after).into()))
                    .collect();
                machine.ram.plan(changes);
            }
            Self::Reset => machine.reset(),
            Self::Activate(features) => {
                let offered = machine.device.features();
                // Mostly some of those offered.
                let features = match features % 8 {
                    0 => *features,
                    _ => offered & (*features | 1 << 32),
                };
                let could = machine.activate(features);
                assert!(!could || features & !offered == 0);
            }
            Self::Hello => {
                machine.hello();
            }
        }
    }
}
