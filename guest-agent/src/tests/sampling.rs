use oprofile_wire::sample::{ESCAPE, note, note_word};
use proptest::prelude::*;

use super::fake::{Guest, decode};
use crate::transport::feature;
use crate::writer::Counters;
use crate::{Platform, Sample, Transport};

fn statistics(guest: &Guest) -> crate::CpuStatistics {
    guest.with_cpu(0, |agent| agent.statistics())
}

#[test]
fn full_buffer_is_posted_and_the_next_one_opened() {
    let guest = Guest::new(1);
    guest.sampling();
    for _ in 0..Guest::SAMPLES_PER_BUFFER {
        guest.sample(0, 1, 10);
    }
    assert_eq!(statistics(&guest).posted, 0);
    guest.now.set(77);
    guest.sample(0, 1, 10);
    let now = statistics(&guest);
    assert_eq!((now.posted, now.in_flight, now.open_samples), (1, 1, 1));

    guest.device.borrow_mut().drain(0);
    let device = guest.device.borrow();
    let header = device.buffers[0].header;
    assert_eq!(header.sequence.get(), 0);
    assert_eq!(header.clock_ns.get(), 77);
    assert_eq!(header.vcpu.get(), 0);
    assert_eq!(header.samples.get() as usize, Guest::SAMPLES_PER_BUFFER);
    assert_eq!(header.received.get(), Guest::SAMPLES_PER_BUFFER as u64);
}

#[test]
fn each_buffer_begins_with_mode_and_task() {
    let guest = Guest::new(1);
    guest.sampling();
    for _ in 0..=2 * Guest::SAMPLES_PER_BUFFER {
        guest.sample(0, 1, 10);
    }
    guest.device.borrow_mut().drain(0);
    let first = note_word(note::KERNEL_CTX_SWITCH | note::USER_CTX_SWITCH, 1);
    let device = guest.device.borrow();
    assert_eq!(device.buffers.len(), 2);
    for (buffer, sequence) in device.buffers.iter().zip(0..) {
        assert_eq!(buffer.words[..3], [ESCAPE, first, 1]);
        assert_eq!(buffer.header.sequence.get(), sequence);
    }
}

#[test]
fn without_a_free_buffer_samples_are_lost_and_totals_add_up() {
    let guest = Guest::new(1);
    guest.sampling();
    let room = Guest::BUFFERS * Guest::SAMPLES_PER_BUFFER;
    for _ in 0..room + 7 {
        guest.sample(0, 1, 10);
    }
    let counters = statistics(&guest).counters;
    assert_eq!((counters.received, counters.lost), (room as u64 + 7, 7));

    // The device catches up, and the next buffers tell of the loss.
    guest.device.borrow_mut().drain(0);
    for _ in 0..=Guest::SAMPLES_PER_BUFFER {
        guest.sample(0, 1, 10);
    }
    guest.device.borrow_mut().drain(0);
    let device = guest.device.borrow();
    let last = device.buffers.last().unwrap().header;
    let written: u64 = device
        .buffers
        .iter()
        .map(|b| u64::from(b.header.samples.get()))
        .sum();
    assert_eq!(last.lost.get(), 7);
    assert_eq!(last.received.get(), written + last.lost.get());
}

#[test]
fn quiesce_tells_losses_that_no_buffer_could_tell() {
    let guest = Guest::new(1);
    let mut control = guest.sampling();
    let room = Guest::BUFFERS * Guest::SAMPLES_PER_BUFFER;
    for _ in 0..room + 3 {
        guest.sample(0, 1, 10);
    }
    control.quiesce(&guest).unwrap();
    let device = guest.device.borrow();
    let last = device.buffers.last().unwrap().header;
    assert_eq!((last.samples.get(), last.lost.get()), (0, 3));
    assert_eq!(last.received.get(), room as u64 + 3);
}

#[test]
fn device_is_notified_under_pressure_only() {
    let guest = Guest::new(1);
    guest.sampling();
    // Two of five in flight: no more than half.
    for _ in 0..=2 * Guest::SAMPLES_PER_BUFFER {
        guest.sample(0, 1, 10);
    }
    assert!(guest.device.borrow().kicks.is_empty());
    for _ in 0..Guest::SAMPLES_PER_BUFFER {
        guest.sample(0, 1, 10);
    }
    assert_eq!(guest.device.borrow().kicks, [1]);
    assert_eq!(statistics(&guest).kicks, 1);
}

#[test]
fn notified_device_is_not_notified_again_before_it_looks() {
    let guest = Guest::new(1);
    guest.sampling();
    for _ in 0..100 {
        guest.sample(0, 1, 10);
    }
    assert_eq!(guest.device.borrow().kicks, [1]);
    // It has looked, and lets go of nothing: the next pressure is news.
    let heads = guest.device.borrow_mut().take_buffers(0);
    for head in heads {
        guest.device.borrow_mut().give_back(1, u32::from(head), 0);
    }
    for _ in 0..100 {
        guest.sample(0, 1, 10);
    }
    assert_eq!(guest.device.borrow().kicks, [1, 1]);
}

#[test]
fn without_event_idx_the_flags_are_honoured() {
    let guest = Guest::new(1);
    guest.device.borrow_mut().features = feature::VERSION_1;
    guest.sampling();
    for _ in 0..100 {
        guest.sample(0, 1, 10);
    }
    assert!(!guest.device.borrow().kicks.is_empty());
    guest.transport().acknowledge_interrupt();
    guest.device.borrow_mut().drain(0);
    assert!(!guest.transport().acknowledge_interrupt().queue);
}

#[test]
fn sample_queues_raise_no_interrupts() {
    let guest = Guest::new(1);
    guest.sampling();
    guest.transport().acknowledge_interrupt();
    for _ in 0..10 {
        for _ in 0..2 * Guest::SAMPLES_PER_BUFFER {
            guest.sample(0, 1, 10);
        }
        guest.device.borrow_mut().drain(0);
    }
    assert!(!guest.transport().acknowledge_interrupt().queue);
}

#[test]
fn buffers_come_back_in_any_order() {
    let guest = Guest::new(1);
    guest.sampling();
    for _ in 0..=3 * Guest::SAMPLES_PER_BUFFER {
        guest.sample(0, 1, 10);
    }
    let heads = guest.device.borrow_mut().take_buffers(0);
    for &head in heads.iter().rev() {
        guest.device.borrow_mut().give_back(1, u32::from(head), 0);
    }
    for _ in 0..3 * Guest::SAMPLES_PER_BUFFER {
        guest.sample(0, 1, 10);
    }
    assert_eq!(statistics(&guest).counters.lost, 0);
    assert_eq!(statistics(&guest).faults, 0);
}

#[test]
fn wrong_used_entries_are_counted_and_free_nothing() {
    let guest = Guest::new(1);
    guest.sampling();
    for _ in 0..=2 * Guest::SAMPLES_PER_BUFFER {
        guest.sample(0, 1, 10);
    }
    guest.device.borrow_mut().give_back(1, 0xffff_ffff, 0);
    guest.device.borrow_mut().give_back(1, 4, 0);
    for _ in 0..Guest::SAMPLES_PER_BUFFER {
        guest.sample(0, 1, 10);
    }
    let now = statistics(&guest);
    assert_eq!((now.faults, now.in_flight), (2, 3));
}

#[test]
fn impossible_used_index_loses_samples_and_nothing_else() {
    let guest = Guest::new(1);
    guest.sampling();
    guest.device.borrow_mut().set_used_index(1, 1000);
    for _ in 0..100 {
        guest.sample(0, 1, 10);
    }
    let now = statistics(&guest);
    assert_eq!(now.faults, 1);
    assert_eq!(now.counters.received, 100);
    let room = (Guest::BUFFERS * Guest::SAMPLES_PER_BUFFER) as u64;
    assert_eq!(now.counters.lost, 100 - room);
}

#[test]
fn idle_vcpu_posts_an_old_buffer_quietly() {
    let guest = Guest::new(1);
    guest.sampling();
    guest.sample(0, 1, 10);
    let opened = guest.now.get();
    guest.now.set(opened + 99);
    guest.with_cpu(0, |agent| agent.idle(&guest, 100));
    assert_eq!(statistics(&guest).posted, 0);
    guest.now.set(opened + 100);
    guest.with_cpu(0, |agent| agent.idle(&guest, 100));
    guest.with_cpu(0, |agent| agent.idle(&guest, 100));
    assert_eq!(statistics(&guest).posted, 1);
    assert!(guest.device.borrow().kicks.is_empty());
}

#[test]
fn call_chains_follow_their_sample_and_never_straddle_buffers() {
    let guest = Guest::new(1);
    guest
        .device
        .borrow_mut()
        .change_config(|config| config.backtrace_depth = 4.into());
    let mut control = guest.sampling();
    for _ in 0..5 {
        let sample = Sample {
            pc: 0x100,
            is_kernel: true,
            event: 0,
            task: 1,
        };
        guest.with_cpu(0, |agent| {
            agent.sample(&guest, &sample, 10, |depth, tracer| {
                assert_eq!(depth, 4);
                assert!((1..=4).all(|frame| tracer.frame(0x100 + frame)));
            });
        });
    }
    control.quiesce(&guest).unwrap();
    let device = guest.device.borrow();
    let samples: Vec<_> = device
        .buffers
        .iter()
        .map(|b| b.header.samples.get())
        .collect();
    assert_eq!(samples, [1; 5]);
    for buffer in &device.buffers {
        let chain = [0x100, 0, 0x101, 0, 0x102, 0, 0x103, 0, 0x104, 0];
        assert_eq!(buffer.words[3..], chain);
    }
}

#[test]
fn call_chain_longer_than_a_buffer_is_cut_and_counted() {
    let guest = Guest::new(1);
    guest
        .device
        .borrow_mut()
        .change_config(|config| config.backtrace_depth = 1_000_000.into());
    guest.sampling();
    let sample = Sample {
        pc: 0x100,
        is_kernel: true,
        event: 0,
        task: 1,
    };
    for _ in 0..2 {
        guest.with_cpu(0, |agent| {
            agent.sample(&guest, &sample, 10, |depth, tracer| {
                assert_eq!(depth, crate::cpu::MAX_BACKTRACE_DEPTH);
                let cut = (0..depth).position(|frame| !tracer.frame(u64::from(frame)));
                assert_eq!(cut, Some(9));
            });
        });
    }
    let counters = statistics(&guest).counters;
    assert_eq!((counters.aborted, counters.lost), (2, 0));
}

/// What a property test does to vCPU 0.
#[derive(Clone, Debug)]
enum Step {
    Sample { pc: u64, is_kernel: bool, task: u64 },
    Drain,
    Flush { space: u64 },
    Idle,
}

fn step() -> impl Strategy<Value = Step> {
    let pc = prop_oneof![9 => 0..ESCAPE, 1 => Just(ESCAPE)];
    prop_oneof![
        20 => (pc, any::<bool>(), 1u64..6).prop_map(|(pc, is_kernel, task)| Step::Sample { pc, is_kernel, task }),
        1 => Just(Step::Drain),
        1 => (1u64..4).prop_map(|space| Step::Flush { space }),
        1 => Just(Step::Idle),
    ]
}

/// Two threads a process, and a kernel thread.
fn space_of(task: u64) -> u64 {
    task / 2
}

proptest! {
    #[test]
    fn what_is_written_is_what_the_device_reads(steps in prop::collection::vec(step(), 0..400)) {
        let guest = Guest::new(1);
        let mut control = guest.sampling();
        let flush = control.flush();
        let mut offered = Vec::new();
        for step in steps {
            match step {
                Step::Sample { pc, is_kernel, task } => {
                    let lost = statistics(&guest).counters.lost;
                    let sample = Sample { pc, is_kernel, event: 0, task };
                    guest.with_cpu(0, |agent| {
                        agent.sample(&guest, &sample, space_of(task), |_, _| {});
                    });
                    if pc != ESCAPE && statistics(&guest).counters.lost == lost {
                        offered.push((pc, task, is_kernel));
                    }
                }
                Step::Drain => guest.device.borrow_mut().drain(0),
                Step::Flush { space } => {
                    flush.before_release(&guest, space);
                    // Nothing of this space is left with the guest.
                    let device = guest.device.borrow();
                    let seen = decode(&device.buffers, 0);
                    let late = &offered[seen.len()..];
                    prop_assert!(late.iter().all(|&(_, task, _)| space_of(task) != space));
                }
                Step::Idle => guest.with_cpu(0, |agent| agent.idle(&guest, 0)),
            }
        }
        control.quiesce(&guest).unwrap();
        let device = guest.device.borrow();
        prop_assert_eq!(&decode(&device.buffers, 0), &offered);
        let Counters { received, lost, invalid, .. } = statistics(&guest).counters;
        prop_assert_eq!(received, offered.len() as u64 + lost + invalid);
        if let Some(last) = device.buffers.last() {
            prop_assert_eq!(last.header.received.get(), received);
            prop_assert_eq!(last.header.lost.get(), lost);
            prop_assert_eq!(last.header.invalid.get(), invalid);
        }
        for (buffer, sequence) in device.buffers.iter().zip(0..) {
            prop_assert_eq!(buffer.header.sequence.get(), sequence);
        }
    }
}
