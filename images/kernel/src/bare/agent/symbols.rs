//! Names of functions for the device.

use oprofile_guest_agent::{Module as ModuleEntry, Symbol};
use oprofile_wire::Cursor;
use oprofile_wire::control::{SymbolEntry, take_named};

use crate::fs::File;
use crate::module::Module;

/// The kernel's own symbols, in the initrd: the builder takes them from the linked kernel. Records as in a symbols request.
const KERNEL_SYMBOLS: &[u8] = b"/boot/kernel.syms";

/// The kernel's functions; none when the initrd does not have them.
pub fn of_kernel() -> impl Iterator<Item = Symbol<'static>> {
    let data = File::open(KERNEL_SYMBOLS).map_or(&[][..], |file| file.data());
    if data.is_empty() {
        crate::log!(
            "no {}: the kernel's functions stay nameless",
            KERNEL_SYMBOLS.escape_ascii()
        );
    }
    let mut cursor = Cursor::new(data);
    core::iter::from_fn(move || {
        let named = take_named::<SymbolEntry>(&mut cursor).ok()?;
        Some(Symbol {
            address: named.entry.address.get(),
            size: named.entry.size.get(),
            name: named.name,
        })
    })
}

/// A module's functions.
pub fn of_module(module: &Module) -> impl Iterator<Item = Symbol<'_>> {
    module.functions.iter().map(|function| Symbol {
        address: function.address,
        size: u32::try_from(function.size).unwrap_or(0),
        name: function.name.as_bytes(),
    })
}

/// A module as the device lists it.
pub fn module_entry(module: &Module) -> ModuleEntry<'_> {
    ModuleEntry {
        base: module.base,
        size: module.size,
        name: &module.name,
    }
}
