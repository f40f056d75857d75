//! OProfile session directories: sample files, the event-stream decoder and the collector that joins them.
//!
//! * [`sample_file`]: one sample file, header version 0x13, read and written.
//! * [`sample_path`]: the path of a sample file, which names program, image and event.
//! * [`guest_path`]: how a name that a guest chose becomes a path on the host.
//! * [`build_id`]: which build a file is.
//! * [`file_list`]: which files of the guest the names in a session stand for.
//! * [`events`]: the escape-coded event buffer as records.
//! * [`guest`]: what the collector has to ask about the guest.
//! * [`vdso`]: the functions of the library that a kernel maps into each process.
//! * [`symbol_elf`]: an ELF file that holds nothing but symbols.
//! * [`collector`]: event buffer in, session directory out.
//! * [`validate`]: whether a session directory follows every rule of the format.

pub mod build_id;
pub mod collector;
pub mod events;
pub mod file_list;
pub mod guest;
pub mod guest_path;
pub mod sample_file;
pub mod sample_path;
pub mod symbol_elf;
pub mod validate;
pub mod vdso;

pub use build_id::{Build, BuildId};
pub use collector::{
    Account, Archive, Collector, CollectorError, CollectorOptions, CollectorStats, Missing,
    Separation,
};
pub use file_list::FileIdentity;
pub use guest::{
    CookieTarget, GuestFile, GuestFiles, GuestNames, ImageKind, KernelImage, Symbol, SymbolKind,
};
