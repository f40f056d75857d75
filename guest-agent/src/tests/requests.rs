use oprofile_wire::Cursor;
use oprofile_wire::control::{
    CpuState, Hello, MAX_TASKS_PER_REQUEST, ModuleEntry, SymbolEntry, SymbolsHeader, TaskFree,
    flag, kind, status, take_named,
};
use oprofile_wire::layout::Descriptor;

use super::fake::{Guest, LAYOUT, Request};
use crate::request::TASK_FREE_SLOTS;
use crate::{Clocks, Module, Platform, RequestError, Symbol, TaskFate, Transport};

/// Requests of one kind that the device got.
fn requests(guest: &Guest, kind: u16) -> Vec<Request> {
    let device = guest.device.borrow();
    device
        .requests
        .iter()
        .filter(|request| request.kind == kind)
        .cloned()
        .collect()
}

#[test]
fn hello_carries_the_description_and_the_layout() {
    let guest = Guest::new(2);
    guest.sampling();
    let hello = &requests(&guest, kind::HELLO)[0];
    let mut cursor = Cursor::new(&hello.payload);
    let head = cursor.take::<Hello>().unwrap();
    assert_eq!(head.page_table_root.get(), 0x1000);
    assert_eq!(head.cpus.get(), 2);
    let release = cursor.take_bytes(usize::from(head.release_bytes.get()));
    assert_eq!(release, Some(&b"tiny-1"[..]));
    assert_eq!(cursor.rest().len(), head.layout_bytes.get() as usize);
    let layout = Descriptor::parse(cursor.rest()).unwrap();
    assert_eq!(layout.entries, LAYOUT);
}

#[test]
fn cpu_state_is_told() {
    let guest = Guest::new(2);
    let mut control = guest.sampling();
    control.cpu_state(&guest, 1, true).unwrap();
    let request = &requests(&guest, kind::CPU_STATE)[0];
    let mut cursor = Cursor::new(&request.payload);
    let state = cursor.take::<CpuState>().unwrap();
    assert_eq!((state.vcpu.get(), state.online.get()), (1, 1));
}

#[test]
fn vcpu_that_goes_posts_its_buffer_first() {
    let guest = Guest::new(2);
    let mut control = guest.sampling();
    guest.sample(1, 1, 10);
    control.cpu_state(&guest, 1, false).unwrap();
    guest.device.borrow_mut().drain(1);
    assert_eq!(guest.device.borrow().buffers.len(), 1);
    guest.sample(1, 1, 10);
    let statistics = guest.with_cpu(1, |agent| agent.statistics());
    assert_eq!(statistics.counters.received, 1);
}

#[test]
fn long_symbol_list_goes_in_parts() {
    let guest = Guest::new(1);
    let mut control = guest.sampling();
    let names: Vec<_> = (0..2000).map(|n| format!("function_number_{n}")).collect();
    let list = names.iter().zip(0x1000..).map(|(name, address)| Symbol {
        address,
        size: 16,
        name: name.as_bytes(),
    });
    control.symbols(&guest, 0xabc000, list).unwrap();

    let parts = requests(&guest, kind::SYMBOLS);
    assert!(parts.len() > 2);
    let mut received = Vec::new();
    for (index, part) in parts.iter().enumerate() {
        let first = if index == 0 { flag::FIRST } else { 0 };
        let last = if index + 1 == parts.len() {
            flag::LAST
        } else {
            0
        };
        assert_eq!(part.flags, first | last);
        let mut cursor = Cursor::new(&part.payload);
        let head = *cursor.take::<SymbolsHeader>().unwrap();
        assert_eq!(head.image_base.get(), 0xabc000);
        for _ in 0..head.count.get() {
            let named = take_named::<SymbolEntry>(&mut cursor).unwrap();
            received.push(String::from_utf8(named.name.to_vec()).unwrap());
        }
        assert!(cursor.rest().is_empty());
    }
    assert_eq!(received, names);
}

#[test]
fn empty_list_is_first_and_last() {
    let guest = Guest::new(1);
    let mut control = guest.sampling();
    control.modules(&guest, [], false).unwrap();
    let request = &requests(&guest, kind::MODULES)[0];
    assert_eq!(request.flags, flag::FIRST | flag::LAST);
    assert!(request.payload.is_empty());
}

#[test]
fn coming_module_is_flagged() {
    let guest = Guest::new(1);
    let mut control = guest.sampling();
    let module = Module {
        base: 0xffff_ffff_c000_0000,
        size: 0x4000,
        name: b"work",
    };
    control.modules(&guest, [module], true).unwrap();
    let request = &requests(&guest, kind::MODULES)[0];
    assert_eq!(
        request.flags,
        flag::FIRST | flag::LAST | flag::MODULE_COMING
    );
    let mut cursor = Cursor::new(&request.payload);
    let named = take_named::<ModuleEntry>(&mut cursor).unwrap();
    assert_eq!(named.entry.base.get(), module.base);
    assert_eq!(named.name, module.name);
}

#[test]
fn over_long_name_is_an_error_and_sends_nothing() {
    let guest = Guest::new(1);
    let mut control = guest.sampling();
    let module = Module {
        base: 0,
        size: 0,
        name: &[b'x'; 513],
    };
    assert_eq!(
        control.modules(&guest, [module], false),
        Err(RequestError::TooLong)
    );
    assert!(requests(&guest, kind::MODULES).is_empty());
}

#[test]
fn refusal_carries_status_and_detail() {
    let guest = Guest::new(1);
    let mut control = guest.sampling();
    let refusal = (kind::MODULES, status::LIMIT_EXCEEDED);
    guest.device.borrow_mut().refusals.push(refusal);
    assert_eq!(
        control.modules(&guest, [], false),
        Err(RequestError::Refused {
            status: status::LIMIT_EXCEEDED,
            detail: 7
        })
    );
}

#[test]
fn mute_device_times_out_and_its_late_answer_frees_the_memory() {
    let guest = Guest::new(1);
    let mut control = guest.sampling();
    guest.device.borrow_mut().mute = true;
    assert_eq!(
        control.cpu_state(&guest, 0, true),
        Err(RequestError::TimedOut)
    );
    assert_eq!(control.cpu_state(&guest, 0, true), Err(RequestError::Busy));
    guest.device.borrow_mut().answer_held(status::OK);
    guest.device.borrow_mut().mute = false;
    assert_eq!(control.cpu_state(&guest, 0, true), Ok(()));
}

#[test]
fn dead_tasks_come_back_only_when_the_device_lets_go() {
    let guest = Guest::new(2);
    let mut control = guest.sampling();
    guest.sample(0, 0x111, 10);
    guest.sample(1, 0x999, 10);
    assert_eq!(
        control.free_tasks(&guest, &[0x111, 0x222]),
        Ok(TaskFate::Held)
    );
    guest.relax();
    let request = &requests(&guest, kind::TASK_FREE)[0];
    let mut cursor = Cursor::new(&request.payload);
    assert_eq!(cursor.take::<TaskFree>().unwrap().count.get(), 2);
    assert_eq!(cursor.rest().len(), 16);

    // Only the buffer that mentions one of them had to go.
    for vcpu in 0..2 {
        guest.device.borrow_mut().drain(vcpu);
    }
    let queues: Vec<_> = guest
        .device
        .borrow()
        .buffers
        .iter()
        .map(|b| b.queue)
        .collect();
    assert_eq!(queues, [1]);

    let mut freed = Vec::new();
    control.freed_tasks(|task| freed.push(task)).unwrap();
    assert!(freed.is_empty());
    guest.device.borrow_mut().answer_held(status::OK);
    control.freed_tasks(|task| freed.push(task)).unwrap();
    assert_eq!(freed, [0x111, 0x222]);
    control.freed_tasks(|task| freed.push(task)).unwrap();
    assert_eq!(freed.len(), 2);
}

#[test]
fn answered_tasks_raise_an_interrupt() {
    let guest = Guest::new(1);
    let mut control = guest.sampling();
    guest.transport().acknowledge_interrupt();
    control.free_tasks(&guest, &[1]).unwrap();
    guest.relax();
    guest.device.borrow_mut().answer_held(status::OK);
    assert!(guest.transport().acknowledge_interrupt().queue);
}

#[test]
fn task_requests_outstanding_are_bounded() {
    let guest = Guest::new(1);
    let mut control = guest.sampling();
    for task in 0..TASK_FREE_SLOTS as u64 {
        assert_eq!(control.free_tasks(&guest, &[task + 1]), Ok(TaskFate::Held));
    }
    assert_eq!(control.free_tasks(&guest, &[9]), Err(RequestError::Busy));
    guest.relax();
    guest.device.borrow_mut().answer_held(status::OK);
    let mut freed = Vec::new();
    control.freed_tasks(|task| freed.push(task)).unwrap();
    assert_eq!(freed, [1, 2, 3, 4]);
    assert_eq!(control.free_tasks(&guest, &[9]), Ok(TaskFate::Held));
}

#[test]
fn full_batch_of_tasks_fits_and_a_larger_one_is_refused() {
    let guest = Guest::new(1);
    let mut control = guest.sampling();
    let tasks: Vec<u64> = (1..=MAX_TASKS_PER_REQUEST as u64 + 1).collect();
    assert_eq!(
        control.free_tasks(&guest, &tasks),
        Err(RequestError::TooLong)
    );
    assert_eq!(control.free_tasks(&guest, &tasks[1..]), Ok(TaskFate::Held));
}

#[test]
fn refused_task_request_hands_its_tasks_out_and_is_counted() {
    let guest = Guest::new(1);
    let mut control = guest.sampling();
    control.free_tasks(&guest, &[5]).unwrap();
    guest.relax();
    guest.device.borrow_mut().answer_held(status::BAD_STATE);
    let mut freed = Vec::new();
    control.freed_tasks(|task| freed.push(task)).unwrap();
    assert_eq!(freed, [5]);
    assert_eq!(control.statistics().task_free_refused, 1);
}

#[test]
fn device_that_holds_no_tasks_frees_them_at_once() {
    let guest = Guest::new(1);
    guest
        .device
        .borrow_mut()
        .change_config(|config| config.capabilities = 0.into());
    let mut control = guest.sampling();
    assert_eq!(control.free_tasks(&guest, &[5]), Ok(TaskFate::FreeNow));
}

#[test]
fn disabling_stops_the_clocks_posts_and_then_says_quiesced() {
    let guest = Guest::new(2);
    let mut control = guest.sampling();
    guest.sample(0, 1, 10);
    guest.sample(1, 2, 20);
    guest
        .device
        .borrow_mut()
        .change_config(|config| config.enable = 0.into());
    assert_eq!(control.update(&guest), Ok(Clocks::Stop));
    // A clock that has not stopped yet adds nothing.
    guest.sample(0, 1, 10);
    assert!(guest.device.borrow().buffers.is_empty());
    control.quiesce(&guest).unwrap();
    let device = guest.device.borrow();
    assert_eq!(device.requests.last().unwrap().kind, kind::QUIESCED);
    // The device drained the queues when it answered, and both buffers were in them.
    let samples: Vec<_> = device
        .buffers
        .iter()
        .map(|b| b.header.samples.get())
        .collect();
    assert_eq!(samples, [1, 1]);
    drop(device);
    assert_eq!(control.update(&guest), Ok(Clocks::Off));
}

#[test]
fn enabling_again_resumes() {
    let guest = Guest::new(1);
    let mut control = guest.sampling();
    control.quiesce(&guest).unwrap();
    assert_eq!(
        control.update(&guest),
        Ok(Clocks::Run {
            period_ns: 1_000_000
        })
    );
    guest.sample(0, 1, 10);
    let statistics = guest.with_cpu(0, |agent| agent.statistics());
    assert_eq!(statistics.open_samples, 1);
}

#[test]
fn wrong_answers_in_the_used_ring_are_counted_and_ignored() {
    let guest = Guest::new(1);
    let mut control = guest.sampling();
    control.free_tasks(&guest, &[5]).unwrap();
    guest.relax();
    {
        let mut device = guest.device.borrow_mut();
        // A chain that is not in flight.
        device.give_back(0, 8, 16);
    }
    let mut freed = Vec::new();
    control.freed_tasks(|task| freed.push(task)).unwrap();
    assert!(freed.is_empty());
    assert_eq!(control.statistics().faults, 1);
}

#[test]
fn answer_without_bytes_is_an_error() {
    let guest = Guest::new(1);
    let mut control = guest.sampling();
    guest.device.borrow_mut().mute = true;
    assert_eq!(
        control.cpu_state(&guest, 0, true),
        Err(RequestError::TimedOut)
    );
    guest.device.borrow_mut().give_back(0, 0, 3);
    // The slot is free again, and the next request finds its own answer.
    guest.device.borrow_mut().mute = false;
    assert_eq!(control.cpu_state(&guest, 0, true), Ok(()));
}
