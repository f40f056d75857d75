//! The control queue: requests in fixed slots, each a readable descriptor and a writable one for the answer.
//!
//! Slot 0 carries the requests that are waited for, the others task-free requests, which the device keeps for a while.

use core::fmt;

use oprofile_wire::PROTOCOL_VERSION;
use oprofile_wire::control::{
    MAX_TASKS_PER_REQUEST, RequestHeader, Response, TaskFree, kind, status,
};
use zerocopy::IntoBytes;

use crate::memory::DmaMemory;
use crate::virtqueue::{DESC_F_NEXT, DESC_F_WRITE, RingFault, Virtqueue};

/// Memory for a request that is waited for. Longer lists go in several requests.
pub const REQUEST_BYTES: usize = 16 * 1024;

/// Most task-free requests that wait for the device at a time.
pub const TASK_FREE_SLOTS: usize = 4;

/// Memory for a task-free request.
pub const TASK_FREE_BYTES: usize = 4096;

/// The answer stands at the start of a slot's memory, the request behind it.
const REQUEST_AT: usize = size_of::<Response>();

/// Where a request's payload begins.
const PAYLOAD_AT: usize = REQUEST_AT + size_of::<RequestHeader>();

/// Where a task-free request's pointers begin.
const TASKS_AT: usize = PAYLOAD_AT + size_of::<TaskFree>();

const _: () = assert!(TASKS_AT + 8 * MAX_TASKS_PER_REQUEST <= TASK_FREE_BYTES);

/// Why a request got no good answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RequestError {
    /// The device answered with this status and detail (`oprofile_wire::control::status`).
    Refused {
        /// What is wrong.
        status: u32,
        /// Where.
        detail: u32,
    },
    /// No answer in time; the request may still be carried out.
    TimedOut,
    /// An earlier request without an answer occupies the memory.
    Busy,
    /// A name or the kernel's description does not fit a request.
    TooLong,
    /// The device answered with fewer bytes than an answer has.
    ShortAnswer(u32),
    /// The queue's used ring cannot be right.
    Ring(RingFault),
    /// Hello has not been accepted.
    NotIntroduced,
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused { status, detail } => {
                write!(
                    f,
                    "The device refused: {} (detail {detail})",
                    describe(*status)
                )
            }
            Self::TimedOut => f.write_str("The device did not answer in time"),
            Self::Busy => f.write_str("An earlier request is still unanswered"),
            Self::TooLong => f.write_str("A name or description is too long for a request"),
            Self::ShortAnswer(bytes) => write!(f, "The device's answer has {bytes} bytes only"),
            Self::Ring(_) => f.write_str("The control queue is broken"),
            Self::NotIntroduced => f.write_str("The device has not accepted this kernel"),
        }
    }
}

impl core::error::Error for RequestError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Ring(fault) => Some(fault),
            _ => None,
        }
    }
}

/// What a status of the device means.
const fn describe(status: u32) -> &'static str {
    match status {
        status::UNSUPPORTED_VERSION => "it speaks another version",
        status::UNKNOWN_REQUEST => "it does not know this request",
        status::MALFORMED => "malformed request",
        status::LIMIT_EXCEEDED => "the list is too long",
        status::BAD_STATE => "not at this time",
        status::BAD_LAYOUT => "it cannot use the layout descriptor",
        status::BAD_KERNEL => "the kernel description does not agree with memory",
        _ => "unknown status",
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Free,
    InFlight,
    /// The device is done; so many bytes were written.
    Answered(u32),
}

#[derive(Debug)]
struct Slot {
    memory: DmaMemory,
    /// Bytes of the readable part.
    bytes: usize,
    state: State,
}

impl Slot {
    const fn new(memory: DmaMemory) -> Self {
        Self {
            memory,
            bytes: 0,
            state: State::Free,
        }
    }

    /// Reads the answer; the device has given it back, with the used ring's acquire before.
    fn answer(&mut self, written: u32) -> Result<u64, RequestError> {
        if (written as usize) < size_of::<Response>() {
            return Err(RequestError::ShortAnswer(written));
        }
        let words = self.memory.words_mut();
        let mut response = Response::default();
        response
            .as_mut_bytes()
            .copy_from_slice(words[..size_of::<Response>() / 8].as_bytes());
        match response.status.get() {
            status::OK => Ok(response.value.get()),
            other => Err(RequestError::Refused {
                status: other,
                detail: response.detail.get(),
            }),
        }
    }
}

/// The payload of a request being written.
#[derive(Debug)]
pub(crate) struct Payload<'a> {
    slot: &'a mut Slot,
    end: usize,
}

impl Payload<'_> {
    /// Appends all parts or none; false when they do not fit.
    pub(crate) fn push(&mut self, parts: &[&[u8]]) -> bool {
        let total: usize = parts.iter().map(|part| part.len()).sum();
        if self.end.saturating_add(total) > self.slot.memory.bytes() {
            return false;
        }
        for part in parts {
            if !self.slot.memory.write_at(self.end, part) {
                return false;
            }
            self.end += part.len();
        }
        true
    }

    /// Writes over `bytes` that were pushed first.
    pub(crate) fn replace_head(&mut self, bytes: &[u8]) {
        let written = self.slot.memory.write_at(PAYLOAD_AT, bytes);
        debug_assert!(written, "the head was pushed before");
    }

    /// Puts the request header in front.
    pub(crate) fn finish(self, kind: u16, flags: u32) {
        let header = RequestHeader {
            kind: kind.into(),
            version: PROTOCOL_VERSION.into(),
            flags: flags.into(),
            payload_bytes: bytes_u32(self.end - PAYLOAD_AT).into(),
            reserved: 0.into(),
        };
        let written = self.slot.memory.write_at(REQUEST_AT, header.as_bytes());
        debug_assert!(written, "a slot is larger than a header");
        self.slot.bytes = self.end - REQUEST_AT;
    }
}

/// The control queue.
#[derive(Debug)]
pub(crate) struct ControlQueue {
    queue: Virtqueue,
    request: Slot,
    task_free: [Slot; TASK_FREE_SLOTS],
    faults: u64,
}

/// A queue must have room for all slots, two descriptors each.
const MIN_QUEUE_SIZE: usize = 2 * (TASK_FREE_SLOTS + 1);

impl ControlQueue {
    /// `None` when the queue or a piece of memory is too small.
    pub(crate) fn new(
        queue: Virtqueue,
        request: DmaMemory,
        task_free: [DmaMemory; TASK_FREE_SLOTS],
    ) -> Option<Self> {
        let fits = usize::from(queue.size()) >= MIN_QUEUE_SIZE
            && request.bytes() >= REQUEST_BYTES
            && task_free
                .iter()
                .all(|memory| memory.bytes() >= TASK_FREE_BYTES);
        fits.then(|| Self {
            queue,
            request: Slot::new(request),
            task_free: task_free.map(Slot::new),
            faults: 0,
        })
    }

    pub(crate) const fn faults(&self) -> u64 {
        self.faults
    }

    /// Starts the payload of a request that will be waited for.
    pub(crate) fn start(&mut self) -> Result<Payload<'_>, RequestError> {
        self.poll()?;
        match self.request.state {
            State::InFlight => Err(RequestError::Busy),
            State::Free | State::Answered(_) => Ok(Payload {
                slot: &mut self.request,
                end: PAYLOAD_AT,
            }),
        }
    }

    /// Publishes the request of which the payload was finished last. Returns whether to notify the device.
    pub(crate) fn submit(&mut self) -> bool {
        publish(&mut self.queue, &mut self.request, 0);
        self.queue.wants_notification()
    }

    /// The answer to the request that was submitted, once it is there.
    pub(crate) fn poll_answer(&mut self) -> Result<Option<u64>, RequestError> {
        self.poll()?;
        match self.request.state {
            State::Answered(written) => {
                self.request.state = State::Free;
                self.request.answer(written).map(Some)
            }
            State::Free | State::InFlight => Ok(None),
        }
    }

    /// Sends a task-free request of at most [`MAX_TASKS_PER_REQUEST`] tasks. Returns whether to notify the device.
    pub(crate) fn submit_tasks(&mut self, tasks: &[u64]) -> Result<bool, RequestError> {
        self.poll()?;
        let free = self
            .task_free
            .iter_mut()
            .zip(1..)
            .find(|(slot, _)| slot.state == State::Free);
        let (slot, number) = free.ok_or(RequestError::Busy)?;
        let mut payload = Payload {
            slot,
            end: PAYLOAD_AT,
        };
        let head = TaskFree {
            count: bytes_u32(tasks.len()).into(),
            reserved: 0.into(),
        };
        if tasks.len() > MAX_TASKS_PER_REQUEST
            || !payload.push(&[head.as_bytes(), tasks.as_bytes()])
        {
            return Err(RequestError::TooLong);
        }
        payload.finish(kind::TASK_FREE, 0);
        publish(&mut self.queue, slot, number);
        Ok(self.queue.wants_notification())
    }

    /// Whether another task-free request can be sent.
    pub(crate) fn has_task_slot(&mut self) -> Result<bool, RequestError> {
        self.poll()?;
        Ok(self.task_free.iter().any(|slot| slot.state == State::Free))
    }

    /// Hands out the tasks of the requests that have been answered, whatever the answer: one that refused a task
    /// does not hold it. Returns how many requests were refused.
    pub(crate) fn take_freed(&mut self, mut freed: impl FnMut(u64)) -> Result<usize, RequestError> {
        self.poll()?;
        let mut refused = 0;
        for slot in &mut self.task_free {
            let State::Answered(written) = slot.state else {
                continue;
            };
            slot.state = State::Free;
            refused += usize::from(slot.answer(written).is_err());
            let end = (REQUEST_AT + slot.bytes) / 8;
            for &task in &slot.memory.words_mut()[TASKS_AT / 8..end] {
                freed(task);
            }
        }
        Ok(refused)
    }

    /// Notes which slots the device is done with.
    fn poll(&mut self) -> Result<(), RequestError> {
        // Each slot once, and as many faults before it is taken up again.
        for _ in 0..self.queue.size() {
            let used = match self.queue.pop_used() {
                Ok(None) => break,
                Ok(Some(used)) => used,
                Err(RingFault::BadHead(_)) => {
                    self.faults += 1;
                    continue;
                }
                Err(fault) => {
                    self.faults += 1;
                    return Err(RequestError::Ring(fault));
                }
            };
            let number = usize::from(used.head / 2);
            let slot = match number.checked_sub(1) {
                None => Some(&mut self.request),
                Some(index) => self.task_free.get_mut(index),
            };
            match slot {
                Some(slot) if used.head.is_multiple_of(2) && slot.state == State::InFlight => {
                    slot.state = State::Answered(used.written);
                }
                _ => self.faults += 1,
            }
        }
        Ok(())
    }
}

/// Publishes a slot as descriptors 2·`number` (request) and 2·`number` + 1 (answer).
fn publish(queue: &mut Virtqueue, slot: &mut Slot, number: u16) {
    let head = 2 * number;
    let gpa = slot.memory.gpa();
    queue.set_descriptor(
        head,
        gpa + REQUEST_AT as u64,
        bytes_u32(slot.bytes),
        DESC_F_NEXT,
        head + 1,
    );
    queue.set_descriptor(
        head + 1,
        gpa,
        bytes_u32(size_of::<Response>()),
        DESC_F_WRITE,
        0,
    );
    slot.state = State::InFlight;
    queue.publish(head);
}

/// Lengths inside a slot are at most [`REQUEST_BYTES`].
fn bytes_u32(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}
