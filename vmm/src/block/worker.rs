//! The thread that serves a disk's queue.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::EventFd;

use super::BlockDevice;

/// Token of the event that ends the worker.
const KILL: u64 = 0;
/// Token of the driver's notification.
const KICK: u64 = 1;

/// A running worker. Dropping it ends the thread.
#[derive(Debug)]
pub struct BlockWorker {
    kill: EventFd,
    thread: Option<JoinHandle<()>>,
}

impl BlockWorker {
    /// Starts serving `device`; `kick` is written when the driver notifies its queue.
    ///
    /// # Errors
    /// When the host lacks file descriptors or threads.
    pub fn start(device: Arc<BlockDevice>, kick: EventFd) -> io::Result<Self> {
        let kill = EventFd::new(libc::EFD_NONBLOCK)?;
        let epoll = Epoll::new()?;
        for (fd, token) in [(kill.as_raw_fd(), KILL), (kick.as_raw_fd(), KICK)] {
            let event = EpollEvent::new(EventSet::IN, token);
            epoll.ctl(ControlOperation::Add, fd, event)?;
        }
        let thread = thread::Builder::new().name("disk".into()).spawn(move || {
            if let Err(error) = serve(&device, &epoll, &kick) {
                tracing::error!("A disk's worker failed: {error}");
            }
        })?;
        Ok(Self {
            kill,
            thread: Some(thread),
        })
    }
}

impl Drop for BlockWorker {
    fn drop(&mut self) {
        // Fails only when the counter is full, which kills just as well.
        let _ = self.kill.write(1);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(device: &BlockDevice, epoll: &Epoll, kick: &EventFd) -> io::Result<()> {
    let mut events = [EpollEvent::default(); 2];
    // Nothing, or more requests are waiting: then only the end is looked for.
    let mut timeout = -1;
    loop {
        let count = match epoll.wait(timeout, &mut events) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if events[..count].iter().any(|event| event.data() == KILL) {
            return Ok(());
        }
        // Read first, so that a notification during the work comes back as another event.
        let _ = kick.read();
        timeout = if device.serve() { 0 } else { -1 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Image;

    #[test]
    fn worker_ends_when_it_is_dropped() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), [0; 512]).unwrap();
        let image = Image::open(file.path(), true).unwrap();
        let device = Arc::new(BlockDevice::new(image));
        let kick = EventFd::new(libc::EFD_NONBLOCK).unwrap();
        let worker = BlockWorker::start(Arc::clone(&device), kick).unwrap();
        drop(worker);
        assert_eq!(Arc::strong_count(&device), 1);
    }
}
