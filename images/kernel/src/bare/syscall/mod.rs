//! System calls: number in RAX, arguments in RDI, RSI, RDX, R10, R8, result in RAX, negative for an error.

mod errno;

use alloc::vec;
use alloc::vec::Vec;

pub use errno::Errno;

use crate::arch::context::Context;
use crate::arch::{clock, cpu, machine, serial, timer};
use crate::fs::File;
use crate::mm::space::Mm;
use crate::mm::vma;
use crate::sync::Mutex;
use crate::task::process::Process;
use crate::task::{current, kthread, process, scheduler, table};
use crate::{agent, module};

/// Longest path.
const MAX_PATH: u64 = 1024;
/// Longest argument of a program.
const MAX_ARGUMENT: u64 = 64 * 1024;
/// Longest single write; a longer one is cut, as POSIX allows.
const MAX_WRITE: u64 = 16 * 1024;
/// Descriptor number that stands for no file.
const NO_FILE: u64 = u64::MAX;

type Answer = Result<u64, Errno>;

/// Called by `entry.s` on the task's kernel stack, interrupts on.
#[unsafe(no_mangle)]
extern "C" fn syscall_handler(context: &mut Context) {
    let number = context.rax;
    let arguments = [
        context.rdi,
        context.rsi,
        context.rdx,
        context.r10,
        context.r8,
    ];
    let result = match number {
        2 => match exec(arguments) {
            Ok(fresh) => {
                *context = fresh;
                return;
            }
            Err(error) => Err(error),
        },
        _ => dispatch(number, arguments),
    };
    context.rax = match result {
        Ok(value) => value,
        Err(error) => error.to_result(),
    };
}

fn dispatch(number: u64, [a, b, c, d, e]: [u64; 5]) -> Answer {
    match number {
        // Exit codes are 32 bits wide, so that waiting for one never looks like an error.
        0 => process::exit(a & 0xffff_ffff),
        1 => write(a, b, c),
        3 => spawn(a, b, c, d),
        4 => map(a, b, c, d, e),
        5 => space()?.unmap(a, b).map(|()| 0),
        6 => open(a, b),
        7 => table::wait(
            current().tgid,
            u32::try_from(a).map_err(|_| Errno::NO_CHILD)?,
        ),
        8 => Ok(clock::now()),
        9 => get_argument(a, b),
        10 => {
            scheduler::yield_now();
            Ok(0)
        }
        11 => module::load(&path(a, b)?),
        12 => {
            agent::shut_down();
            machine::power_off(a as u32)
        }
        13 => module::call(a, b, c),
        14 => kthread::spawn_known(current().tgid, a, b).map(u64::from),
        15 => sleep(a),
        16 => {
            let file = shared()?.file(a).ok_or(Errno::BAD_FILE)?;
            Ok(file.data().len() as u64)
        }
        17 => Ok(cpu::online() as u64),
        18 => process::spawn_thread(a, b, c).map(u64::from),
        19 => sampling_statistics(a),
        _ => Err(Errno::NO_CALL),
    }
}

fn space() -> Result<&'static Mm, Errno> {
    current().space().ok_or(Errno::FAULT)
}

fn shared() -> Result<&'static Process, Errno> {
    current().process.as_deref().ok_or(Errno::INVALID)
}

fn bytes(address: u64, length: u64, longest: u64) -> Result<Vec<u8>, Errno> {
    if length > longest {
        return Err(Errno::NAME_TOO_LONG);
    }
    let mut bytes = vec![0; length as usize];
    space()?.read(address, &mut bytes)?;
    Ok(bytes)
}

fn path(address: u64, length: u64) -> Result<Vec<u8>, Errno> {
    bytes(address, length, MAX_PATH)
}

fn write(descriptor: u64, address: u64, length: u64) -> Answer {
    /// Keeps what one call writes together.
    static CONSOLE: Mutex<()> = Mutex::new(());
    if descriptor != 1 && descriptor != 2 {
        return Err(Errno::BAD_FILE);
    }
    let bytes = bytes(address, length.min(MAX_WRITE), MAX_WRITE)?;
    let _console = CONSOLE.lock();
    serial::write(&bytes);
    Ok(bytes.len() as u64)
}

fn exec([path_at, path_length, at, length, _]: [u64; 5]) -> Result<Context, Errno> {
    let argument = bytes(at, length, MAX_ARGUMENT)?;
    process::exec(&path(path_at, path_length)?, argument)
}

fn spawn(path_at: u64, path_length: u64, at: u64, length: u64) -> Answer {
    let argument = bytes(at, length, MAX_ARGUMENT)?;
    let path = path(path_at, path_length)?;
    process::spawn(current().tgid, &path, argument).map(u64::from)
}

fn map(hint: u64, length: u64, protection: u64, descriptor: u64, page: u64) -> Answer {
    let mut flags = 0;
    for (bit, flag) in [(1, vma::READ), (2, vma::WRITE), (4, vma::EXEC)] {
        if protection & bit != 0 {
            flags |= flag;
        }
    }
    let file = match descriptor {
        NO_FILE => None,
        _ => Some((shared()?.file(descriptor).ok_or(Errno::BAD_FILE)?, page)),
    };
    space()?.map(hint, length, flags, file)
}

fn open(address: u64, length: u64) -> Answer {
    let file = File::open(&path(address, length)?).ok_or(Errno::NOT_FOUND)?;
    shared()?.add_file(file)
}

/// Gives the argument's length, and as much of it as fits.
fn get_argument(address: u64, capacity: u64) -> Answer {
    let argument = shared()?.argument.lock();
    let fits = argument.len().min(capacity as usize);
    space()?.write(address, &argument[..fits])?;
    Ok(argument.len() as u64)
}

fn sleep(span: u64) -> Answer {
    timer::sleep_until(clock::now().saturating_add(span));
    Ok(0)
}

/// Stores six words about the agent on this machine: samples received and lost, buffers posted, kicks, doorbells, the
/// sampling period in nanoseconds.
fn sampling_statistics(address: u64) -> Answer {
    let words = agent::statistics();
    for (index, word) in words.iter().enumerate() {
        space()?.write(address + 8 * index as u64, &word.to_le_bytes())?;
    }
    Ok(words.len() as u64)
}
