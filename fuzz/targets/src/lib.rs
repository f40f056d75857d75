//! What the fuzz targets run.
//!
//! A target is a function of bytes. libFuzzer calls it through a binary of its own (`fuzz_targets/`), the test in `tests/` with
//! each file of the committed corpus. It panics when it finds something: through an assertion of its own, one in the code
//! under test, or an overflow.
//!
//! | module | what it does |
//! |---|---|
//! | [`agent`] | the guest's half, against a hostile device |
//! | [`block_requests`] | a disk's requests and queue |
//! | [`build_id`] | build-ids of files as they are mapped |
//! | [`control_protocol`] | the control socket: frames, requests, streams of words |
//! | [`control_requests`] | requests, alone and one after the other |
//! | [`events`], [`sample_files`] | the session's readers: event buffer, sample files, their paths |
//! | [`kernel_images`] | kernel files, up to where they lie in guest memory |
//! | [`layout_descriptor`] | layout descriptors, and walks by those that are believed |
//! | [`objects`] | kernel objects: tasks, mappings of each store, files and paths |
//! | [`page_walk`] | page tables and kernel pointers in arbitrary RAM |
//! | [`perf_map`] | perf maps of just-in-time compilers |
//! | [`sample_buffers`] | entries, headers and chains of sample buffers, and the words that they become |
//! | [`session`] | the collector, with names as a guest may choose them |
//! | [`session_trees`] | trees of sessions, and every report of them |
//! | [`specifications`] | profile specifications |
//! | [`whole_device`] | everything at once, in any order |
//! | [`machine`], [`ram`], [`scene`], [`layouts`], [`names`] | what they share: RAM that is watched, guests that are laid out and spoiled |

pub mod agent;
pub mod block_requests;
pub mod build_id;
pub mod control_protocol;
pub mod control_requests;
pub mod events;
pub mod kernel_images;
pub mod layout_descriptor;
pub mod layouts;
pub mod machine;
pub mod names;
pub mod objects;
pub mod page_walk;
pub mod perf_map;
pub mod ram;
pub mod sample_buffers;
pub mod sample_files;
pub mod scene;
pub mod session;
pub mod session_trees;
pub mod specifications;
pub mod whole_device;

/// A target.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name: that of its binary and of its corpus.
    pub name: &'static str,
    /// Runs it on one input.
    pub run: fn(&[u8]),
}

macro_rules! targets {
    ($($name:ident: $run:expr,)+) => {
        /// All targets.
        pub const TARGETS: &[Target] = &[$(Target { name: stringify!($name), run: $run }),+];

        /// Each target under its name, for the binaries.
        pub mod target {
            use super::*;
            $(
                /// Runs the target of this name.
                pub fn $name(data: &[u8]) {
                    let run: fn(&[u8]) = $run;
                    run(data);
                }
            )+
        }
    };
}

targets! {
    block_request: block_requests::run,
    build_id: build_id::run,
    collector: session::run,
    control_protocol: control_protocol::run,
    control_requests: control_requests::run,
    device: whole_device::run,
    event_records: events::run,
    guest_agent: agent::run,
    kernel_image: kernel_images::run,
    layout_descriptor: layout_descriptor::run,
    page_walk: page_walk::run,
    paths: |data| objects::run(layouts::TINY, data),
    perf_map: perf_map::run,
    profile_specification: specifications::run,
    sample_buffer: sample_buffers::run,
    sample_file: sample_files::run,
    sample_path: sample_files::run_paths,
    session_tree: session_trees::run,
    vma_list: |data| objects::run(layouts::LIST, data),
    vma_maple: |data| objects::run(layouts::MAPLE, data),
    vma_rb_tree: |data| objects::run(layouts::RB_TREE, data),
}
