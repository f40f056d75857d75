use super::fake::{FakeTransport, Guest};
use crate::virtqueue::{Interrupts, QUEUE_BYTES, RingFault, Used, Virtqueue};
use crate::{Platform, TransportError};

/// Queue 1 of a device that takes EVENT_IDX, with one buffer as descriptor 0.
fn queue(guest: &Guest) -> Virtqueue {
    // Bring-up agrees on features and enables every queue; queue 2 has no vCPU and is left for the test.
    guest.device.borrow_mut().add_queue();
    guest.bring_up().unwrap();
    let transport: FakeTransport = guest.transport();
    let memory = guest.allocate(QUEUE_BYTES).unwrap();
    let queue = Virtqueue::enable(&transport, 2, memory, true, Interrupts::Suppressed).unwrap();
    let buffer = guest.allocate(256).unwrap();
    queue.set_descriptor(0, buffer.gpa(), 256, 0, 0);
    queue
}

#[test]
fn device_hears_once_of_what_it_has_not_looked_at() {
    let guest = Guest::new(1);
    let mut queue = queue(&guest);
    assert!(!queue.wants_notification());
    queue.publish(0);
    assert!(queue.wants_notification());
    assert!(!queue.wants_notification());
    queue.publish(0);
    assert!(!queue.wants_notification());
    assert_eq!(guest.device.borrow_mut().take_all(2), 2);
    queue.publish(0);
    assert!(queue.wants_notification());
}

#[test]
fn indices_wrap() {
    let guest = Guest::new(1);
    let mut queue = queue(&guest);
    for _ in 0..70_000 {
        queue.publish(0);
        assert!(queue.wants_notification());
        assert_eq!(guest.device.borrow_mut().take_all(2), 1);
        guest.device.borrow_mut().give_back(2, 0, 5);
        let used = Used {
            head: 0,
            written: 5,
        };
        assert_eq!(queue.pop_used(), Ok(Some(used)));
        assert_eq!(queue.pop_used(), Ok(None));
    }
    assert_eq!(guest.device.borrow().interrupt, 0);
}

#[test]
fn used_entries_beyond_what_was_offered_are_faults() {
    let guest = Guest::new(1);
    let mut queue = queue(&guest);
    queue.publish(0);
    guest.device.borrow_mut().give_back(2, 128, 0);
    assert_eq!(queue.pop_used(), Err(RingFault::BadHead(128)));
    guest.device.borrow_mut().give_back(2, 0, 0);
    assert_eq!(queue.pop_used(), Err(RingFault::BadIndex(2)));
    assert_eq!(queue.pop_used(), Err(RingFault::BadIndex(2)));
}

#[test]
fn queue_that_is_missing_or_in_use_is_refused() {
    let guest = Guest::new(1);
    guest.bring_up().unwrap();
    for index in [1, 7] {
        let memory = guest.allocate(QUEUE_BYTES).unwrap();
        let transport: FakeTransport = guest.transport();
        let refused = Virtqueue::enable(&transport, index, memory, true, Interrupts::Wanted);
        assert_eq!(
            refused.unwrap_err(),
            TransportError::QueueUnavailable(index)
        );
    }
}
