//! The emulated machine: QEMU's command line and its process.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use rustix::io::FdFlags;
use rustix::process::Signal;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::supervise::{Ended, Output, supervise_while};

/// What an emulated machine is made of.
#[derive(Debug)]
pub struct Hardware<'a> {
    /// QEMU's path.
    pub qemu: &'a Path,
    /// The kernel image.
    pub kernel: &'a Path,
    /// The initramfs.
    pub initramfs: &'a Path,
    /// Directory exchanged with the init script.
    pub ctl: &'a Path,
    /// Directory that the machine may write to.
    pub share: &'a Path,
    /// Where the kernel's console goes.
    pub console: &'a Path,
    /// Where QEMU's own messages go.
    pub log: &'a Path,
    /// Which of the machines that one process runs at once.
    pub slot: u32,
    /// Processors.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Whether the kernel tells all it does on the console.
    pub verbose: bool,
}

/// Written anew by the lab's init every second.
const HEARTBEAT: &str = "heartbeat";

/// How long the heartbeat may stop before the machine counts as frozen. A busy lab is late by a few seconds at most.
const FROZEN_AFTER: Duration = Duration::from_secs(30);

/// Whether the machine that writes to `ctl` has given signs of life, and stopped.
pub fn is_frozen(ctl: &Path) -> bool {
    ctl.join(HEARTBEAT)
        .metadata()
        .and_then(|metadata| metadata.modified())
        .ok()
        .and_then(|last| SystemTime::now().duration_since(last).ok())
        .is_some_and(|silence| silence > FROZEN_AFTER)
}

/// One of the processors that this process may use, for all of QEMU's threads.
///
/// QEMU enters a guest by changing its word of pending interrupts with an instruction that is not atomic between processors
/// (7.2 to 10.0, `helper_vmrun`), while its main thread sets bits in it. A bit that gets lost is an interrupt that never comes:
/// the lab stands still, or a vector that KVM injected is delivered again. On one processor the instruction is atomic.
fn processor_for(lab: u32) -> io::Result<CpuSet> {
    let allowed = sched_getaffinity(None)?;
    let processors: Vec<usize> = (0..CpuSet::MAX_CPU)
        .filter(|&processor| allowed.is_set(processor))
        .collect();
    let mut chosen = CpuSet::new();
    // Labs that run at once spread over the processors.
    if let Some(&processor) = processors.get(lab as usize % processors.len().max(1)) {
        chosen.set(processor);
    }
    Ok(chosen)
}

/// Boots the machine and waits until it is off; the output is that of the command in it.
pub fn run(hardware: &Hardware<'_>, limit: Duration) -> io::Result<Ended> {
    let (stdout, stdout_end) = io::pipe()?;
    let (stderr, stderr_end) = io::pipe()?;
    let ends = [OwnedFd::from(stdout_end), OwnedFd::from(stderr_end)];

    let mut command = Command::new(hardware.qemu);
    command
        .args(arguments(hardware, ends.each_ref().map(AsRawFd::as_raw_fd)))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(hardware.log)?);
    let inherited = ends.each_ref().map(AsRawFd::as_raw_fd);
    let parent = rustix::process::getpid();
    let processor = processor_for(std::process::id().wrapping_add(hardware.slot))?;
    // SAFETY: between fork and exec the closure only makes system calls (fcntl, sched_setaffinity, prctl, getppid),
    // which are async-signal-safe, and it neither allocates nor takes locks. The descriptors stay
    // open until `ends` is dropped, after the child has been started.
    unsafe {
        command.pre_exec(move || {
            for fd in inherited {
                rustix::io::fcntl_setfd(BorrowedFd::borrow_raw(fd), FdFlags::empty())?;
            }
            sched_setaffinity(None, &processor)?;
            // Whatever ends us, Ctrl-C or SIGKILL, must not leave an emulator behind.
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            if rustix::process::getppid() != Some(parent) {
                return Err(io::Error::other("the parent is gone"));
            }
            Ok(())
        });
    }
    let child = command.spawn()?;
    drop(ends);
    supervise_while(child, stdout, stderr, Output::Live, limit, || {
        !is_frozen(hardware.ctl)
    })
}

/// QEMU's arguments; `outputs` are the descriptors for the command's stdout and stderr.
fn arguments(hardware: &Hardware<'_>, outputs: [i32; 2]) -> Vec<String> {
    let quiet = if hardware.verbose { "" } else { " quiet" };
    let [stdout, stderr] = outputs;
    let mut arguments: Vec<String> = [
        "-nodefaults -no-user-config -no-reboot -display none -machine q35 -cpu EPYC,+svm,+npt",
        // The ports are stdout and stderr; each one possible costs QEMU's main loop two descriptors to poll.
        "-accel tcg,thread=multi,tb-size=512 -device virtio-serial-pci,max_ports=4",
    ]
    .iter()
    .flat_map(|words| words.split(' '))
    .map(str::to_owned)
    .collect();
    let mut add = |option: &str, value: String| arguments.extend([option.to_owned(), value]);

    add("-smp", hardware.cpus.to_string());
    add("-m", format!("{}M", hardware.memory_mib));
    add("-kernel", hardware.kernel.display().to_string());
    add("-initrd", hardware.initramfs.display().to_string());
    add(
        "-append",
        format!(
            "console=ttyS0 panic=-1 tsc=reliable mitigations=off nowatchdog random.trust_cpu=on{quiet}"
        ),
    );
    add("-serial", format!("file:{}", escape(hardware.console)));
    for (set, fd, name) in [(1, stdout, "stdout"), (2, stderr, "stderr")] {
        add("-add-fd", format!("fd={fd},set={set}"));
        add(
            "-chardev",
            format!("file,id={name},path=/dev/fdset/{set},append=on"),
        );
        add(
            "-device",
            format!("virtserialport,chardev={name},name=lab.{name}"),
        );
    }
    for (tag, path, options) in [
        ("root", Path::new("/"), ",readonly=on"),
        ("share", hardware.share, ""),
        ("ctl", hardware.ctl, ""),
    ] {
        add(
            "-fsdev",
            format!(
                "local,id={tag},path={},security_model=none,multidevs=remap{options}",
                escape(path)
            ),
        );
        add(
            "-device",
            format!("virtio-9p-pci,fsdev={tag},mount_tag={tag}"),
        );
    }
    arguments
}

/// In the value of a QEMU option a comma is written twice.
fn escape(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_threads_of_a_lab_share_one_processor_and_labs_spread() {
        let allowed = sched_getaffinity(None).expect("readable");
        let chosen = [0, 1].map(|lab| processor_for(lab).expect("chosen"));
        for set in &chosen {
            assert_eq!(set.count(), 1);
            assert!((0..CpuSet::MAX_CPU).all(|cpu| !set.is_set(cpu) || allowed.is_set(cpu)));
        }
        assert_eq!(chosen[0] == chosen[1], allowed.count() == 1);
    }

    #[test]
    fn the_host_root_is_read_only_and_commas_are_doubled() {
        let hardware = Hardware {
            qemu: Path::new("qemu"),
            kernel: Path::new("k"),
            initramfs: Path::new("i"),
            ctl: Path::new("/c"),
            share: Path::new("/a,b"),
            console: Path::new("/console"),
            log: Path::new("/log"),
            slot: 0,
            cpus: 2,
            memory_mib: 512,
            verbose: false,
        };
        let arguments = arguments(&hardware, [5, 6]);
        let root = arguments.iter().find(|word| word.contains("id=root"));
        assert!(root.is_some_and(|root| root.contains("path=/,") && root.contains("readonly=on")));
        assert!(arguments.iter().any(|word| word.contains("path=/a,,b,")));
        assert!(arguments.iter().any(|word| word == "fd=5,set=1"));
    }
}
