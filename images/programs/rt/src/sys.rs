//! The system calls: `syscall` with the number in rax, arguments in rdi, rsi, rdx, r10, r8; the result in rax,
//! negative for an error; rcx and r11 are lost.

use core::arch::asm;

/// A system call's error number, positive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub i64);

/// Result of a system call.
pub type Result<T> = core::result::Result<T, Errno>;

mod number {
    pub const EXIT: u64 = 0;
    pub const WRITE: u64 = 1;
    pub const EXEC: u64 = 2;
    pub const SPAWN: u64 = 3;
    pub const MMAP: u64 = 4;
    pub const MUNMAP: u64 = 5;
    pub const OPEN: u64 = 6;
    pub const WAIT: u64 = 7;
    pub const CLOCK_NS: u64 = 8;
    pub const GETARG: u64 = 9;
    pub const LOAD_MODULE: u64 = 11;
    pub const POWER_OFF: u64 = 12;
    pub const CALL_MODULE: u64 = 13;
    pub const SPAWN_KTHREAD: u64 = 14;
    pub const SLEEP_NS: u64 = 15;
    pub const FILE_SIZE: u64 = 16;
    pub const CPU_COUNT: u64 = 17;
}

/// Pages are readable.
pub const PROT_READ: u64 = 1;
/// Pages are writable.
pub const PROT_WRITE: u64 = 2;
/// Pages are executable.
pub const PROT_EXEC: u64 = 4;

/// Bytes in a page, the unit of mappings.
pub const PAGE: u64 = 4096;

/// # Safety
/// What the call does to this process's memory must be sound for everything that goes on using it.
unsafe fn raw(number: u64, arguments: [u64; 5]) -> i64 {
    let result: i64;
    // SAFETY: the kernel keeps all registers but rax, rcx and r11; the caller answers for the rest.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") arguments[0],
            in("rsi") arguments[1],
            in("rdx") arguments[2],
            in("r10") arguments[3],
            in("r8") arguments[4],
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result
}

/// A call that at most reads this process's memory.
fn plain(number: u64, arguments: [u64; 5]) -> Result<u64> {
    // SAFETY: only calls that leave this process's memory as it is come this way.
    check(unsafe { raw(number, arguments) })
}

fn check(result: i64) -> Result<u64> {
    u64::try_from(result).map_err(|_| Errno(result.wrapping_neg()))
}

fn address(bytes: &[u8]) -> u64 {
    bytes.as_ptr() as u64
}

fn length(bytes: &[u8]) -> u64 {
    bytes.len() as u64
}

/// Ends the process.
pub fn exit(code: i32) -> ! {
    loop {
        let _ = plain(number::EXIT, [i64::from(code).cast_unsigned(), 0, 0, 0, 0]);
    }
}

/// Writes to the console; `fd` is 1 or 2. Gives the bytes written.
///
/// # Errors
/// As the kernel says.
pub fn write(fd: u64, bytes: &[u8]) -> Result<u64> {
    plain(number::WRITE, [fd, address(bytes), length(bytes), 0, 0])
}

/// Makes this process run another program. Comes back only to say why not.
///
/// # Errors
/// Always.
pub fn exec(path: &str, argument: &str) -> Result<core::convert::Infallible> {
    let (path, argument) = (path.as_bytes(), argument.as_bytes());
    let result = plain(
        number::EXEC,
        [
            address(path),
            length(path),
            address(argument),
            length(argument),
            0,
        ],
    );
    Err(result.err().unwrap_or(Errno(0)))
}

/// Starts a process and gives its id.
///
/// # Errors
/// As the kernel says.
pub fn spawn(path: &str, argument: &str) -> Result<u64> {
    let (path, argument) = (path.as_bytes(), argument.as_bytes());
    plain(
        number::SPAWN,
        [
            address(path),
            length(path),
            address(argument),
            length(argument),
            0,
        ],
    )
}

/// Maps `length` bytes, of a file from page `file_page` on, or of zeroes. The kernel takes `hint` when it is free.
///
/// # Errors
/// As the kernel says.
pub fn mmap(hint: u64, length: u64, protection: u64, file: Option<(u64, u64)>) -> Result<u64> {
    let (fd, file_page) = file.unwrap_or((u64::MAX, 0));
    plain(number::MMAP, [hint, length, protection, fd, file_page])
}

/// Unmaps memory.
///
/// # Errors
/// As the kernel says.
///
/// # Safety
/// Nothing uses the range any more.
pub unsafe fn munmap(start: u64, length: u64) -> Result<()> {
    // SAFETY: by this function's own condition.
    check(unsafe { raw(number::MUNMAP, [start, length, 0, 0, 0]) }).map(drop)
}

/// Opens a file for reading (mapping).
///
/// # Errors
/// As the kernel says.
pub fn open(path: &str) -> Result<u64> {
    let path = path.as_bytes();
    plain(number::OPEN, [address(path), length(path), 0, 0, 0])
}

/// Bytes in an open file.
///
/// # Errors
/// As the kernel says.
pub fn file_size(fd: u64) -> Result<u64> {
    plain(number::FILE_SIZE, [fd, 0, 0, 0, 0])
}

/// Waits until a child ends and gives its exit code.
///
/// # Errors
/// As the kernel says. A child that ends with a negative code looks the same.
pub fn wait(pid: u64) -> Result<u64> {
    plain(number::WAIT, [pid, 0, 0, 0, 0])
}

/// Monotonic time in nanoseconds.
#[must_use]
pub fn clock_ns() -> u64 {
    plain(number::CLOCK_NS, [0; 5]).unwrap_or(0)
}

/// Copies the argument string and gives the part of `buffer` that it fills.
///
/// # Errors
/// As the kernel says.
pub fn getarg(buffer: &mut [u8]) -> Result<&[u8]> {
    let arguments = [buffer.as_mut_ptr() as u64, buffer.len() as u64, 0, 0, 0];
    // SAFETY: the kernel writes inside `buffer`, which is ours alone.
    let length = check(unsafe { raw(number::GETARG, arguments) })?;
    let end = usize::try_from(length).unwrap_or(usize::MAX);
    Ok(&buffer[..end.min(buffer.len())])
}

/// Loads a kernel module and gives its id.
///
/// # Errors
/// As the kernel says.
pub fn load_module(path: &str) -> Result<u64> {
    let path = path.as_bytes();
    plain(number::LOAD_MODULE, [address(path), length(path), 0, 0, 0])
}

/// Calls function `index` of a module, in kernel mode, and gives what it returns.
///
/// # Errors
/// As the kernel says. A result with the top bit set looks the same.
pub fn call_module(id: u64, index: u64, argument: u64) -> Result<u64> {
    plain(number::CALL_MODULE, [id, index, argument, 0, 0])
}

/// Starts a kernel thread and gives its id.
///
/// # Errors
/// As the kernel says.
pub fn spawn_kthread(kind: u64, argument: u64) -> Result<u64> {
    plain(number::SPAWN_KTHREAD, [kind, argument, 0, 0, 0])
}

/// Sleeps.
///
/// # Errors
/// As the kernel says.
pub fn sleep_ns(duration: u64) -> Result<()> {
    plain(number::SLEEP_NS, [duration, 0, 0, 0, 0]).map(drop)
}

/// vCPUs of the machine, at least 1.
#[must_use]
pub fn cpu_count() -> u64 {
    plain(number::CPU_COUNT, [0; 5]).unwrap_or(1).max(1)
}

/// Ends everything.
pub fn power_off(code: i32) -> ! {
    let _ = plain(
        number::POWER_OFF,
        [i64::from(code).cast_unsigned(), 0, 0, 0, 0],
    );
    exit(code)
}
