use oprofile_wire::changes;
use oprofile_wire::config::capability;
use oprofile_wire::sample::{ESCAPE, note, note_word};

use super::fake::{Guest, decode};
use crate::transport::Transport;
use crate::{Flush, Platform};

#[test]
fn exit_flushes_every_vcpu_that_holds_samples_and_no_other() {
    let guest = Guest::new(4);
    let control = guest.sampling();
    guest.sample(0, 1, 10);
    guest.sample(1, 9, 90);
    guest.sample(3, 2, 10);
    assert_eq!(control.flush().before_release(&guest, 10), 2);
    let device = guest.device.borrow();
    assert_eq!(device.doorbells, [0, 3]);
    assert_eq!(decode(&device.buffers, 0), [(0x40_0000, 1, false)]);
    assert_eq!(decode(&device.buffers, 3), [(0x40_0000, 2, false)]);
    assert!(device.kicks.is_empty());
}

#[test]
fn buffers_in_flight_count_as_holding_samples() {
    let guest = Guest::new(1);
    let control = guest.sampling();
    guest.sample(0, 1, 10);
    guest.with_cpu(0, |agent| agent.idle(&guest, 0));
    guest.sample(0, 2, 20);
    control.flush().before_release(&guest, 10);
    assert_eq!(guest.device.borrow().doorbells, [0]);
}

#[test]
fn drained_samples_need_no_second_flush() {
    let guest = Guest::new(1);
    let control = guest.sampling();
    guest.sample(0, 1, 10);
    assert_eq!(control.flush().before_release(&guest, 10), 1);
    assert_eq!(control.flush().before_release(&guest, 10), 0);
    guest.sample(0, 1, 10);
    assert_eq!(control.flush().before_release(&guest, 10), 1);
}

#[test]
fn munmap_of_executable_memory_flushes_and_of_other_memory_rings_nothing() {
    let guest = Guest::new(1);
    let control = guest.sampling();
    guest.sample(0, 1, 10);
    assert_eq!(control.flush().before_unmap(&guest, 10, false), 0);
    assert!(guest.device.borrow().doorbells.is_empty());
    assert_eq!(control.flush().before_unmap(&guest, 10, true), 1);
    assert_eq!(guest.device.borrow().doorbells, [0]);
}

#[test]
fn a_flushed_buffer_ends_with_what_will_happen_to_the_space() {
    let guest = Guest::new(2);
    let control = guest.sampling();
    guest.sample(0, 1, 10);
    guest.sample(1, 9, 90);
    control.flush().before_unmap(&guest, 10, true);
    control.flush().before_release(&guest, 90);
    let device = guest.device.borrow();
    for (buffer, event, space) in [(0, note::SPACE_CHANGES, 10), (1, note::SPACE_RELEASED, 90)] {
        let words = &device.buffers[buffer].words;
        assert_eq!(
            words.last_chunk(),
            Some(&[ESCAPE, note_word(event, 1), space])
        );
    }
}

#[test]
fn a_full_buffer_is_flushed_without_the_note() {
    let guest = Guest::new(1);
    let control = guest.sampling();
    // 256 bytes: 9 words of header, and 23: a note of 3, seven samples, another task's note and sample.
    for _ in 0..7 {
        guest.sample(0, 1, 10);
    }
    guest.sample(0, 2, 10);
    assert_eq!(control.flush().before_release(&guest, 10), 1);
    let device = guest.device.borrow();
    assert_eq!(decode(&device.buffers, 0).len(), 8);
    assert_eq!(device.buffers[0].words.len(), 22);
}

#[test]
fn kernel_threads_have_nothing_to_flush() {
    let guest = Guest::new(1);
    let control = guest.sampling();
    guest.sample(0, 1, 0);
    assert_eq!(control.flush().before_release(&guest, 0), 0);
}

#[test]
fn too_many_spaces_to_remember_flush_always() {
    let guest = Guest::new(1);
    guest
        .device
        .borrow_mut()
        .change_config(|config| config.sample_buffer_bytes = 4096.into());
    let control = guest.sampling();
    for space in 1..100 {
        guest.sample(0, space, space);
    }
    assert_eq!(control.flush().before_release(&guest, 5000), 1);
}

#[test]
fn samples_behind_a_flush_tell_mode_and_task_again() {
    let guest = Guest::new(1);
    let control = guest.sampling();
    guest.sample(0, 1, 10);
    control.flush().before_release(&guest, 10);
    guest.sample(0, 1, 10);
    control.flush().before_release(&guest, 10);
    let device = guest.device.borrow();
    assert_eq!(device.buffers[0].words, device.buffers[1].words);
}

#[test]
fn device_without_a_doorbell_is_notified_instead() {
    let guest = Guest::new(1);
    guest
        .device
        .borrow_mut()
        .change_config(|config| config.capabilities = 0.into());
    let control = guest.sampling();
    guest.sample(0, 1, 10);
    assert_eq!(control.flush().before_release(&guest, 10), 1);
    assert!(guest.device.borrow().doorbells.is_empty());
    assert_eq!(guest.device.borrow().kicks, [1]);
}

/// The change word of `space`.
fn change_word<T: Transport>(flush: &Flush<T>, space: u64) -> u64 {
    let words = flush.change_words.expect("change words are in force");
    words.word(changes::index(space)).unwrap()
}

#[test]
fn a_change_of_executable_memory_is_counted_from_begin_to_end() {
    let guest = Guest::new(1);
    let flush = guest.sampling().flush();
    flush.before_unmap(&guest, 10, true);
    assert_eq!(change_word(&flush, 10), 1);
    flush.after_unmap(10, true);
    assert_eq!(change_word(&flush, 10), 1 << 32 | 1);
    assert_ne!(changes::index(10), changes::index(11));
    assert_eq!(change_word(&flush, 11), 0);
}

#[test]
fn a_change_of_other_memory_is_not_counted() {
    let guest = Guest::new(1);
    let flush = guest.sampling().flush();
    flush.before_unmap(&guest, 10, false);
    flush.after_unmap(10, false);
    assert_eq!(change_word(&flush, 10), 0);
}

#[test]
fn a_teardown_is_a_change_without_samples() {
    let guest = Guest::new(1);
    let flush = guest.sampling().flush();
    flush.before_teardown(10);
    assert_eq!(change_word(&flush, 10), 1 << 32 | 1);
    assert!(guest.device.borrow().doorbells.is_empty());
}

#[test]
fn a_flush_comes_before_the_change_is_counted() {
    let guest = Guest::new(1);
    let flush = guest.sampling().flush();
    guest.sample(0, 1, 10);
    let watched = flush.change_words.map(|words| (words, changes::index(10)));
    guest.device.borrow_mut().watched = watched;
    flush.before_unmap(&guest, 10, true);
    assert_eq!(guest.device.borrow().seen, [Some(0)]);
    assert_eq!(change_word(&flush, 10), 1);
}

#[test]
fn a_device_that_knows_no_change_words_gets_none() {
    let guest = Guest::new(1);
    let known = capability::ALL & !capability::CHANGE_WORDS;
    guest
        .device
        .borrow_mut()
        .change_config(|config| config.capabilities = known.into());
    let flush = guest.sampling().flush();
    assert!(flush.change_words.is_none());
    flush.before_unmap(&guest, 10, true);
    flush.after_unmap(10, true);
}
