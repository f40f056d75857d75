//! Kernel objects: from tasks to mappings and files, in a guest that is right at first and arbitrary then.
//!
//! While the guest is right, every answer is compared with what was laid out. Then words are changed between look-ups and
//! during them; what is left to check is that answers make sense and that work stays within its bound.

use arbitrary::{Arbitrary, Unstructured};
use oprofile_device::CookieTarget;
use oprofile_device::event_buffer::record::{ESCAPE, NO_COOKIE};
use oprofile_device::sync::{Lookup, World};
use oprofile_device::test_utils::fuzzing::{GuestWalk, WORK_PER_QUESTION, WORK_PER_SYNC};
use oprofile_device::test_utils::{KERNEL_START, USER_END};

use crate::layouts::Kernel;
use crate::ram::{ACCESSES_PER_READ, WatchedRam};
use crate::scene::{Patch, Process, Scene, ScenePlan, TEXT};

/// Longest path (Linux's `PATH_MAX`).
const MAX_PATH: usize = 4_096;

#[derive(Arbitrary, Debug)]
struct Input {
    is_watched: bool,
    scene: ScenePlan,
    asked: Vec<Address>,
    rounds: Vec<Round>,
}

/// One sync, in a guest that changed before and changes meanwhile.
#[derive(Arbitrary, Debug)]
struct Round {
    before: Vec<Patch>,
    meanwhile: Vec<(u16, Patch)>,
    questions: Vec<(Pointer, Vec<Address>)>,
}

#[derive(Arbitrary, Debug)]
enum Pointer {
    /// The task of a process.
    Process(bool),
    Raw(u64),
}

#[derive(Arbitrary, Debug)]
enum Address {
    /// So many quarters of a page from the first text page.
    Near(u16),
    Raw(u64),
}

impl Address {
    const fn gva(&self) -> u64 {
        match *self {
            Self::Near(quarters) => TEXT - 0x1000 + quarters as u64 * 0x400,
            Self::Raw(gva) => gva,
        }
    }
}

/// Runs the target on a guest with this kernel.
///
/// # Panics
/// When it finds something.
pub fn run(kernel: Kernel, data: &[u8]) {
    if let Ok(input) = Input::arbitrary_take_rest(Unstructured::new(data)) {
        walk(&Scene::new(&input.scene, kernel), &input);
    }
}

fn walk(scene: &Scene, input: &Input) {
    let ram = WatchedRam::maybe_watched(&scene.guest.memory(), input.is_watched);
    let mut hello = scene.guest.hello();
    let layout = scene.guest.layout_bytes(scene.guest.store());
    let mut walk = GuestWalk::new(&ram, &hello, &layout).expect("the guest is as it says");
    for process in &scene.processes {
        check(&mut walk, &ram, scene, process, &input.asked);
    }
    assert_eq!(walk.faults().total(), 0, "{:?}", walk.faults());

    for round in &input.rounds {
        for patch in &round.before {
            patch.apply(scene);
        }
        let meanwhile = round.meanwhile.iter().take(64);
        ram.plan(meanwhile.map(|(after, patch)| patch.change(scene, u64::from(*after))));
        let ((), accesses) = ram.count(|| ask(&mut walk, &ram, scene, round));
        assert!(accesses <= ACCESSES_PER_READ * WORK_PER_SYNC + 1);
    }
    // A hello to a guest like that is accepted or refused, nothing else.
    hello.linear_map_base = 0.into();
    let _ = GuestWalk::new(&ram, &hello, &layout);
}

/// Compares look-ups with what was laid out.
fn check(
    walk: &mut GuestWalk,
    ram: &WatchedRam,
    scene: &Scene,
    process: &Process,
    asked: &[Address],
) {
    let edges = process.mappings.iter().take(8);
    let edges = edges.flat_map(|vma| [vma.start.wrapping_sub(1), vma.start, vma.end - 1, vma.end]);
    let asked = asked.iter().take(32).map(Address::gva);
    let addresses: Vec<u64> = edges.chain(asked).collect();
    let mut world = walk.sync(ram);
    let task = world.task(process.task).expect("the task is there");
    assert_eq!((task.pid, task.tgid), (process.pid, process.pid));
    let mm = task.mm.expect("it has an address space");
    let exe = world.exe_cookie(mm);
    let answers: Vec<Lookup> = addresses.iter().map(|&gva| world.lookup(mm, gva)).collect();
    drop(world);
    let file_is_right = |cookie, pointer| {
        let file = scene.files.iter().find(|file| file.pointer == pointer);
        let file = file.expect("no other file was laid out");
        match walk.cookie(cookie) {
            Some(CookieTarget::File { path, deleted, .. }) => {
                assert_eq!(path, file.path);
                assert_eq!(deleted, file.deleted);
            }
            other => panic!("{other:?} is not {file:?}"),
        }
    };
    if process.exe == 0 {
        assert_eq!(exe, NO_COOKIE);
    } else {
        file_is_right(exe, process.exe);
    }
    for (gva, answer) in addresses.into_iter().zip(answers) {
        let vma = process
            .mappings
            .iter()
            .find(|vma| (vma.start..vma.end).contains(&gva));
        let offset = vma.map(|vma| {
            vma.page_offset
                .wrapping_shl(12)
                .wrapping_add(gva - vma.start)
        });
        match (vma, answer) {
            (None, Lookup::Unmapped) => {}
            // An offset that would be read as an escape is none.
            (Some(vma), Lookup::Unmapped) if vma.file != 0 && offset == Some(ESCAPE) => {}
            (Some(vma), Lookup::Anonymous { cookie, offset }) if vma.file == 0 => {
                assert_eq!(offset, gva);
                let CookieTarget::Anonymous {
                    tgid, start, end, ..
                } = walk.cookie(cookie).unwrap()
                else {
                    panic!("{gva:#x} is anonymous");
                };
                assert_eq!((tgid, start, end), (process.pid, vma.start, vma.end));
            }
            (
                Some(vma),
                Lookup::File {
                    cookie,
                    offset: found,
                },
            ) if vma.file != 0 => {
                assert_eq!(Some(found), offset);
                file_is_right(cookie, vma.file);
            }
            (vma, answer) => panic!("{gva:#x} in {vma:?} is {answer:?}"),
        }
    }
}

/// Asks as a sync does. Whatever the guest is by now, answers must make sense.
fn ask(walk: &mut GuestWalk, ram: &WatchedRam, scene: &Scene, round: &Round) {
    let mut found = Vec::new();
    let mut world = walk.sync(ram);
    for (pointer, addresses) in round.questions.iter().take(16) {
        let pointer = match pointer {
            Pointer::Process(second) => scene.processes[usize::from(*second)].task,
            Pointer::Raw(pointer) => *pointer,
        };
        let (task, accesses) = ram.count(|| world.task(pointer));
        assert!(accesses <= ACCESSES_PER_READ * WORK_PER_QUESTION);
        let Some(mm) = task.and_then(|task| task.mm) else {
            continue;
        };
        let (exe, accesses) = ram.count(|| world.exe_cookie(mm));
        assert!(accesses <= ACCESSES_PER_READ * WORK_PER_QUESTION);
        if exe != NO_COOKIE {
            found.push((
                0,
                Lookup::File {
                    cookie: exe,
                    offset: 0,
                },
            ));
        }
        for gva in addresses.iter().take(64).map(Address::gva) {
            let (answer, accesses) = ram.count(|| world.lookup(mm, gva));
            assert!(accesses <= ACCESSES_PER_READ * WORK_PER_QUESTION);
            if gva >= USER_END {
                assert_eq!(answer, Lookup::Unmapped);
            }
            found.push((gva, answer));
        }
        // The kernel's half is no process's.
        assert_eq!(world.lookup(mm, KERNEL_START), Lookup::Unmapped);
    }
    drop(world);
    for (gva, answer) in found {
        match answer {
            Lookup::File { cookie, .. } => match walk.cookie(cookie) {
                Some(CookieTarget::File { path, .. }) => {
                    assert!(path.len() <= MAX_PATH, "{} bytes", path.len());
                }
                other => panic!("{other:?} is no file"),
            },
            Lookup::Anonymous { cookie, offset } => {
                assert_eq!(offset, gva);
                match walk.cookie(cookie) {
                    Some(CookieTarget::Anonymous { start, end, .. }) => {
                        assert!((start..end).contains(&gva));
                    }
                    other => panic!("{other:?} is no region"),
                }
            }
            Lookup::Unmapped | Lookup::Raced | Lookup::Throttled => {}
        }
    }
}
