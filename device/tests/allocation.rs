//! Once everything has been seen, no sample costs an allocation: not in the agent, not in the device, not at the reader.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use oprofile_device::Settings;
use oprofile_device::test_utils::{
    COMPACT_LAYOUT, GuestShape, KERNEL_START, LINUX_4_19_LAYOUT, LINUX_6_1_LAYOUT, SyntheticGuest,
};
use oprofile_guest_agent::Sample;
use oprofile_wire::layout::{LayoutEntry, VmaStore};
use oprofile_workload::loopback::Loopback;
use oprofile_workload::ram::WorldInRam;
use oprofile_workload::{Replay, Shape, Switches, TRACE, Workload};

/// Counts what each thread allocates, grows or makes smaller.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    // A thread that ends has no counter any more, and no test either.
    let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
}

// SAFETY: every call goes on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations of this thread during `work`.
fn allocations(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

/// Passes after which a device has seen everything of a load: its tasks, mappings, files, and its largest buffers.
const PASSES: usize = 2;

/// Four programs, each with as many mappings as a small one has; several buffers a sync.
const SHAPE: Shape = Shape {
    tasks: 4,
    vmas: 24,
    samples: 8_000,
    batch: 1_000,
    switches: Switches::AtRandom,
};

/// Allocations of agent, device and reader for one pass of `workload`.
#[derive(Debug, Default, PartialEq, Eq)]
struct Allocations {
    agent: u64,
    device: u64,
    reader: u64,
}

fn pass(
    loopback: &mut Loopback,
    world: &WorldInRam,
    workload: &Workload,
    words: &mut Vec<u64>,
) -> Allocations {
    let mut made = Allocations::default();
    for batch in workload.batches() {
        made.agent += allocations(|| {
            loopback.on_vcpu(0, |vcpu| world.sample(vcpu, workload, batch));
        });
        made.device += allocations(|| loopback.device().tick());
        words.clear();
        made.reader += allocations(|| loopback.read(words));
    }
    made
}

/// A guest that keeps its VMAs in `store` is resolved without allocating once it is known.
fn check(store: VmaStore, layout: &[LayoutEntry], workload: &Workload) {
    let depth = u32::try_from(workload.depth).unwrap();
    let mut guest = SyntheticGuest::with_shape(GuestShape {
        layout: layout.to_vec(),
        store,
        ram_bytes: 64 * 1024 * 1024,
        ..GuestShape::default()
    });
    let world = WorldInRam::lay_out(&mut guest, workload);
    let settings = Settings {
        backtrace_depth: depth,
        // Room for a batch in half of the buffers: else the agent kicks, and the device works while the agent is watched.
        cpu_buffer_size: 32_768,
        ..Settings::default()
    };
    let mut words = Vec::with_capacity(settings.buffer_size);
    let mut loopback = Loopback::new(guest, settings).unwrap();
    for _ in 0..PASSES {
        pass(&mut loopback, &world, workload, &mut words);
    }
    let resolved = |loopback: &Loopback| {
        let account = loopback.device().account().sync;
        account.file + account.anonymous + account.kernel + account.no_mapping + account.ignored
    };
    let before = resolved(&loopback);
    let made = pass(&mut loopback, &world, workload, &mut words);
    assert_eq!(resolved(&loopback) - before, SHAPE.samples as u64);
    assert_eq!(made, Allocations::default(), "{store:?}");
}

#[test]
fn a_guest_with_lists_costs_no_allocation_once_it_is_known() {
    check(VmaStore::List, COMPACT_LAYOUT, &Workload::generate(&SHAPE));
}

#[test]
fn a_guest_with_red_black_trees_costs_no_allocation_once_it_is_known() {
    check(
        VmaStore::RbTree,
        LINUX_4_19_LAYOUT,
        &Workload::generate(&SHAPE),
    );
}

#[test]
fn a_guest_with_maple_trees_costs_no_allocation_once_it_is_known() {
    check(
        VmaStore::Maple,
        LINUX_6_1_LAYOUT,
        &Workload::generate(&SHAPE),
    );
}

#[test]
fn call_chains_cost_no_allocation() {
    let mut workload = Workload::load(&TRACE).unwrap();
    workload.samples.truncate(SHAPE.samples);
    check(VmaStore::Maple, LINUX_6_1_LAYOUT, &workload);
}

#[test]
fn samples_of_kernel_threads_never_cost_an_allocation() {
    let guest = SyntheticGuest::default();
    let sample = Sample {
        pc: KERNEL_START,
        is_kernel: true,
        event: 0,
        task: guest.init_task(),
    };
    let mut words = Vec::with_capacity(Settings::default().buffer_size);
    let mut loopback = Loopback::new(guest, Settings::default()).unwrap();
    // The device's copy of a buffer grows with the first.
    for warm in [false, true] {
        let made = allocations(|| {
            loopback.on_vcpu(0, |vcpu| {
                for _ in 0..SHAPE.batch {
                    vcpu.sample(&sample, 0, &[]);
                }
                vcpu.post();
            });
            loopback.device().tick();
            loopback.read(&mut words);
        });
        assert!(made == 0 || !warm, "{made}");
    }
    let kernel = loopback.device().account().sync.kernel;
    assert_eq!(kernel, 2 * SHAPE.batch as u64);
}

#[test]
fn the_pipeline_by_itself_never_allocates() {
    let workload = Workload::generate(&SHAPE);
    let mut replay = Replay::new(&workload).unwrap();
    let made = allocations(|| {
        for batch in workload.batches() {
            replay.write(batch);
            replay.sync();
            replay.read(false);
        }
    });
    assert_eq!(made, 0);
}

#[test]
fn an_allocation_is_counted() {
    assert_eq!(allocations(|| drop(Box::new(1))), 1);
    let mut words = vec![1_u64];
    assert_eq!(allocations(|| words.push(2)), 1);
}
