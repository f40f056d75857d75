//! ACPI tables (ACPI 6.5): what a guest learns of processors, interrupt controllers and devices that it cannot enumerate.
//!
//! The hardware-reduced profile: no fixed hardware but a register that powers off and one that resets.

mod dsdt;
mod tables;

pub use tables::{Machine, TableError, write};

/// Where the tables lie: where a PC has its ROM, which guests leave alone.
pub const TABLES: std::ops::Range<u64> = 0xe_0000..0x10_0000;

/// The root pointer; guests that are not told find it at the start of the ROM (ACPI 6.5, 5.2.5.1).
pub const RSDP: u64 = TABLES.start;

const OEM: [u8; 6] = *b"OPROFI";
const OEM_TABLE: [u8; 8] = *b"VIRTVMM ";
const OEM_REVISION: u32 = 1;

/// Sleep type of S5: any value below 8 will do, [`crate::devices::power`] takes each for power-off.
const S5_TYPE: u8 = 5;
