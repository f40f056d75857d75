//! The thread that serves kicks and the periodic sync.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use oprofile_device::{Device, SYNC_PERIOD};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::timerfd::TimerFd;

use crate::cpu::VcpuTime;

/// Token of the event that ends the worker.
const KILL: u64 = 0;
/// Token of the periodic timer.
const TIMER: u64 = 1;
/// Token of queue 0; the others follow.
const FIRST_QUEUE: u64 = 2;

/// Events taken at once; more are found by the next wait.
const EVENTS: usize = 16;

/// A running worker. Dropping it ends the thread.
#[derive(Debug)]
pub struct Worker {
    kill: EventFd,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// Starts serving `device`; `kicks[n]` is written when the driver notifies queue n. `time` counts while samples come.
    ///
    /// # Errors
    /// When the host lacks file descriptors or threads.
    pub fn start(
        device: Arc<Device<GuestMemoryMmap>>,
        kicks: Vec<EventFd>,
        time: Arc<VcpuTime>,
    ) -> io::Result<Self> {
        let kill = EventFd::new(libc::EFD_NONBLOCK)?;
        let mut timer = TimerFd::new()?;
        timer.reset(SYNC_PERIOD, Some(SYNC_PERIOD))?;
        let epoll = Epoll::new()?;
        let watch = |fd, token| {
            epoll.ctl(
                ControlOperation::Add,
                fd,
                EpollEvent::new(EventSet::IN, token),
            )
        };
        watch(kill.as_raw_fd(), KILL)?;
        watch(timer.as_raw_fd(), TIMER)?;
        for (token, kick) in (FIRST_QUEUE..).zip(&kicks) {
            watch(kick.as_raw_fd(), token)?;
        }
        let thread = thread::Builder::new()
            .name("oprofile-sync".into())
            .spawn(move || {
                if let Err(error) = serve(&device, &epoll, &mut timer, &kicks, &time) {
                    tracing::error!("The profiling device's worker failed: {error}");
                }
            })?;
        Ok(Self {
            kill,
            thread: Some(thread),
        })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Fails only when the counter is full, which kills just as well.
        let _ = self.kill.write(1);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(
    device: &Device<GuestMemoryMmap>,
    epoll: &Epoll,
    timer: &mut TimerFd,
    kicks: &[EventFd],
    time: &VcpuTime,
) -> io::Result<()> {
    let mut events = [EpollEvent::default(); EVENTS];
    loop {
        let count = match epoll.wait(-1, &mut events) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        for event in &events[..count] {
            match event.data() {
                KILL => return Ok(()),
                TIMER => {
                    timer.wait()?;
                    device.tick();
                    let sampled = device.enabled() && !device.quiesced();
                    time.count(sampled && device.account().said_hello);
                }
                token => {
                    let queue = u16::try_from(token - FIRST_QUEUE).unwrap_or(u16::MAX);
                    // Read first, so that a kick during the call comes back as another event.
                    if let Some(kick) = kicks.get(usize::from(queue))
                        && kick.read().is_ok()
                    {
                        device.notify(queue);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oprofile_device::Settings;

    #[test]
    fn a_worker_ends_when_it_is_dropped() {
        let device = Arc::new(Device::new(Settings::default()).unwrap());
        let kick = EventFd::new(libc::EFD_NONBLOCK).unwrap();
        let worker = Worker::start(Arc::clone(&device), vec![kick], Arc::default()).unwrap();
        drop(worker);
        assert_eq!(Arc::strong_count(&device), 1);
    }
}
