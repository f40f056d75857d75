//! Loadable kernel modules: position-independent ELF files in an area of their own, never unloaded.

use alloc::string::String;
use alloc::vec::Vec;

use tiny_kernel::elf::Elf;

use crate::agent;
use crate::fs::File;
use crate::mm::paging::{self, NO_EXECUTE, PRESENT, WRITABLE};
use crate::mm::{MODULE_AREA, PAGE, frames};
use crate::sync::Mutex;
use crate::syscall::Errno;
use crate::task::exec;

/// Most modules, so that the list stays small enough for one request to the device.
const MAX_MODULES: usize = 32;
/// Largest module in memory.
const MAX_BYTES: u64 = 16 << 20;

/// A function of a module.
pub struct Function {
    /// GVA.
    pub address: u64,
    /// Bytes.
    pub size: u64,
    /// Name.
    pub name: String,
    global: bool,
}

/// A loaded module.
pub struct Module {
    path: Vec<u8>,
    /// GVA of its first byte.
    pub base: u64,
    /// Bytes.
    pub size: u64,
    /// File name without its suffix.
    pub name: Vec<u8>,
    /// By address.
    pub functions: Vec<Function>,
}

static MODULES: Mutex<Vec<Module>> = Mutex::new(Vec::new());

/// Loads the module at `path`, unless it is loaded already, and returns its id.
///
/// # Errors
/// When there is no such file, it is no module, or memory is short.
pub fn load(path: &[u8]) -> Result<u64, Errno> {
    let mut modules = MODULES.lock();
    if let Some(id) = modules.iter().position(|module| module.path == path) {
        return Ok(id as u64);
    }
    if modules.len() >= MAX_MODULES {
        return Err(Errno::NO_MEMORY);
    }
    let file = File::open(path).ok_or(Errno::NOT_FOUND)?;
    // A page stays free behind each.
    let base = modules
        .last()
        .map_or(MODULE_AREA.start, |last| last.base + last.size + PAGE);
    let module = place(path, file.data(), base)?;
    crate::log!(
        "module {} at {:#x}, {} functions",
        module.name.escape_ascii(),
        module.base,
        module.functions.len(),
    );
    modules.push(module);
    // The device learns of it before its code runs.
    agent::modules_changed(&modules);
    Ok(modules.len() as u64 - 1)
}

fn place(path: &[u8], file: &[u8], base: u64) -> Result<Module, Errno> {
    let elf = Elf::parse(file)?;
    let extent = elf.extent()?;
    if !elf.relocatable || extent.end - (extent.start & !(PAGE - 1)) > MAX_BYTES {
        return Err(Errno::NOT_EXECUTABLE);
    }
    let bias = base.wrapping_sub(extent.start & !(PAGE - 1));
    let size = (bias.wrapping_add(extent.end) - base).next_multiple_of(PAGE);
    if base + size > MODULE_AREA.end {
        return Err(Errno::NO_MEMORY);
    }
    let mut memory = vec_of_zeros(size as usize)?;
    for segment in elf.segments()? {
        let segment = segment?;
        let offset = (bias.wrapping_add(segment.address) - base) as usize;
        let contents = elf.contents(&segment)?;
        memory[offset..offset + contents.len()].copy_from_slice(contents);
    }
    let mut outside = false;
    elf.relocations(bias, |address, value| {
        let offset = bias.wrapping_add(address).wrapping_sub(base) as usize;
        match memory
            .get_mut(offset..)
            .and_then(|rest| rest.first_chunk_mut())
        {
            Some(word) => *word = value.to_le_bytes(),
            None => outside = true,
        }
    })?;
    if outside {
        return Err(Errno::NOT_EXECUTABLE);
    }
    map(&elf, bias, base, &memory)?;

    let mut functions = Vec::new();
    elf.functions(|function| {
        functions.push(Function {
            address: bias.wrapping_add(function.address),
            size: function.size,
            name: String::from_utf8_lossy(function.name).into_owned(),
            global: function.global,
        });
    })?;
    functions.retain(|function| (base..base + size).contains(&function.address));
    functions.sort_by_key(|function| function.address);
    let name = exec::base_name(path);
    let stem = name
        .iter()
        .position(|byte| *byte == b'.')
        .unwrap_or(name.len());
    Ok(Module {
        path: Vec::from(path),
        base,
        size,
        name: Vec::from(&name[..stem]),
        functions,
    })
}

fn vec_of_zeros(bytes: usize) -> Result<Vec<u8>, Errno> {
    let mut memory = Vec::new();
    memory
        .try_reserve_exact(bytes)
        .map_err(|_| Errno::NO_MEMORY)?;
    memory.resize(bytes, 0);
    Ok(memory)
}

/// Maps copies of the pages of `memory` at `base`, each with what the segments on it ask for.
fn map(elf: &Elf<'_>, bias: u64, base: u64, memory: &[u8]) -> Result<(), Errno> {
    for (page, contents) in (base..)
        .step_by(PAGE as usize)
        .zip(memory.chunks(PAGE as usize))
    {
        let mut flags = PRESENT | NO_EXECUTE;
        for segment in elf.segments()? {
            let segment = segment?;
            let start = bias.wrapping_add(segment.address);
            if start < page + PAGE && page < start + segment.memory_bytes {
                if segment.flags & 1 != 0 {
                    flags &= !NO_EXECUTE;
                }
                if segment.flags & 2 != 0 {
                    flags |= WRITABLE;
                }
            }
        }
        let frame = frames::allocate_holding(contents).ok_or(Errno::NO_MEMORY)?;
        paging::kernel()
            .map(page, frame, PAGE, flags, &mut frames::allocate_zeroed)
            .map_err(|_| Errno::NO_MEMORY)?;
    }
    Ok(())
}

/// Calls function `index`, in address order, of the visible functions of module `id`.
///
/// # Errors
/// When there is no such module or function.
pub fn call(id: u64, index: u64, argument: u64) -> Result<u64, Errno> {
    let address = {
        let modules = MODULES.lock();
        let module = modules.get(id as usize).ok_or(Errno::INVALID)?;
        let mut visible = module.functions.iter().filter(|function| function.global);
        visible.nth(index as usize).ok_or(Errno::INVALID)?.address
    };
    // SAFETY: a function symbol in mapped, executable memory of a module that is never unloaded. Its type is the convention
    // for modules; the images' author keeps it.
    let function: extern "C" fn(u64) -> u64 = unsafe { core::mem::transmute(address) };
    Ok(function(argument))
}
