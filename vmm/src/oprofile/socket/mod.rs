//! The control socket: how tools of the VM's user speak with the VM while it runs (`docs/control-protocol.md`).
//!
//! One thread serves every client and waits for none of them. Guests never wait for it: it takes the device's lock as shortly as
//! the collector does, and words that a slow reader does not take are lost in the event buffer, where they are counted.
//!
//! | module | what it does |
//! |---|---|
//! | `listener` | the socket in the file system |
//! | `connection` | one client's bytes |
//! | `server` | the loop |
//! | `control` | what requests do |
//! | `completion` | what the collector's thread tells the server |

mod completion;
mod connection;
mod control;
mod listener;
mod server;

#[cfg(test)]
mod tests;

use std::io;
use std::thread::{self, JoinHandle};

use vmm_sys_util::eventfd::EventFd;

pub use control::Control;
pub use listener::{Listener, SocketError};
pub use server::MAX_CLIENTS;

use server::Server;

/// A control socket that is being served. Dropping it ends that, and removes the socket.
#[derive(Debug)]
pub struct ControlSocket {
    kill: EventFd,
    thread: Option<JoinHandle<()>>,
}

impl ControlSocket {
    /// Starts serving clients of `listener`.
    ///
    /// # Errors
    /// When the host lacks file descriptors or threads.
    pub fn start(listener: Listener, control: Control) -> io::Result<Self> {
        let kill = EventFd::new(libc::EFD_NONBLOCK)?;
        let server = Server::new(control, listener, kill.try_clone()?)?;
        let thread = thread::Builder::new()
            .name("oprofile-control".into())
            .spawn(move || {
                if let Err(error) = server.run() {
                    tracing::error!("The control socket failed: {error}");
                }
            })?;
        Ok(Self {
            kill,
            thread: Some(thread),
        })
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        // Fails only when the counter is full, which kills just as well.
        let _ = self.kill.write(1);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
