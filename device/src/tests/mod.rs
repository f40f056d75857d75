//! The whole device, driven as a driver drives it.

mod build_ids;
mod clock;
mod control;
mod hostile;
mod perf_maps;
mod races;
mod random;
mod samples;
mod stores;
mod tables;

use crate::test_utils::{Driver, SyntheticGuest, VmaSpec};

/// Where the program of [`Process`] is mapped, with file page 3 first.
pub(crate) const TEXT: u64 = 0x40_0000;
/// Its memory without a file.
pub(crate) const ANON: u64 = 0x7f00_0000_0000;

/// A process with one file and one anonymous mapping.
pub(crate) struct Process {
    pub task: u64,
    pub mm: u64,
    pub file: u64,
}

pub(crate) fn process(guest: &mut SyntheticGuest, pid: u32, name: &[u8]) -> Process {
    let file = guest.file_named(name);
    let mm = guest.mm(file, &mappings(file));
    let task = guest.task(pid, pid, mm);
    Process { task, mm, file }
}

fn mappings(file: u64) -> [VmaSpec; 2] {
    [
        VmaSpec {
            start: TEXT,
            end: TEXT + 0x4000,
            page_offset: 3,
            file,
        },
        VmaSpec {
            start: ANON,
            end: ANON + 0x1000,
            page_offset: 0,
            file: 0,
        },
    ]
}

/// A driver that said hello, with a process.
fn driver(vcpus: u16) -> (Driver, Process) {
    let mut guest = SyntheticGuest::default();
    let process = process(&mut guest, 7, b"prog");
    (Driver::new(guest, vcpus).hello(), process)
}
