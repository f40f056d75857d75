//! One thread a vCPU, and stopping them all.

use std::io;
use std::os::unix::thread::JoinHandleExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use super::end::{EndReport, GuestEnd};
use super::kick::kick_signal;
use super::run::Vcpu;
use super::time::VcpuTime;

/// What the vCPUs did, in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VcpuTotals {
    /// Exits to the VMM.
    pub exits: u64,
}

/// The running vCPUs. Dropping it stops them.
#[derive(Debug)]
pub struct VcpuThreads {
    stop: Arc<AtomicBool>,
    handles: Vec<JoinHandle<Vcpu>>,
}

/// Tells of a vCPU thread that panicked; without it nobody would hear of it.
struct PanicReport<F: Fn(EndReport)> {
    vcpu: u16,
    report: F,
}

impl<F: Fn(EndReport)> Drop for PanicReport<F> {
    fn drop(&mut self) {
        if thread::panicking() {
            (self.report)(EndReport {
                end: GuestEnd::VmmError("a vCPU thread panicked".into()),
                vcpu: self.vcpu,
                rip: None,
            });
        }
    }
}

impl VcpuThreads {
    /// Starts `vcpus`, all of which look at `stop` and are measured by `time`. `report` is called on the thread of each that meets
    /// the guest's end.
    ///
    /// # Errors
    /// When a thread cannot be started; those that run are stopped again.
    pub fn start<F>(
        vcpus: Vec<Vcpu>,
        stop: Arc<AtomicBool>,
        time: &Arc<VcpuTime>,
        report: F,
    ) -> io::Result<Self>
    where
        F: Fn(EndReport) + Clone + Send + 'static,
    {
        let handles = Vec::with_capacity(vcpus.len());
        let mut threads = Self { stop, handles };
        for mut vcpu in vcpus {
            let guard = PanicReport {
                vcpu: vcpu.id,
                report: report.clone(),
            };
            let builder = thread::Builder::new().name(format!("vcpu{}", vcpu.id));
            let time = Arc::clone(time);
            let handle = builder.spawn(move || {
                let measured = time.measure();
                if let Err(error) = &measured {
                    tracing::warn!(
                        "The rate of samples cannot be told: no clock for a vCPU: {error}"
                    );
                }
                if let Some(end) = vcpu.run() {
                    (guard.report)(end);
                }
                vcpu
            })?;
            threads.handles.push(handle);
        }
        Ok(threads)
    }

    /// Stops all vCPUs and waits for their threads. None is in the guest, nor in a device, afterwards.
    pub fn stop(mut self) -> VcpuTotals {
        self.stop_and_join()
    }

    fn stop_and_join(&mut self) -> VcpuTotals {
        self.stop.store(true, Ordering::Release);
        for handle in &self.handles {
            // SAFETY: the thread has been neither joined nor detached, so its id is valid even if it has ended.
            let result = unsafe { libc::pthread_kill(handle.as_pthread_t(), kick_signal()) };
            debug_assert!(result == 0 || result == libc::ESRCH);
        }
        let vcpus = self.handles.drain(..).map(JoinHandle::join);
        let exits = vcpus.flatten().map(|vcpu| vcpu.exits).sum();
        VcpuTotals { exits }
    }
}

impl Drop for VcpuThreads {
    fn drop(&mut self) {
        self.stop_and_join();
    }
}
