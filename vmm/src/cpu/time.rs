//! Processor time of the vCPUs while they are being sampled: what a rate of samples is measured by.

use std::io;
use std::mem::MaybeUninit;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Time that all vCPU threads together have run while samples were wanted. An idle vCPU's thread does not run.
#[derive(Debug, Default)]
pub struct VcpuTime {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    threads: Vec<Thread>,
    /// Whether samples were wanted when the clocks were last read.
    wanted: bool,
    counted: Duration,
}

/// A vCPU's thread.
#[derive(Debug)]
struct Thread {
    clock: libc::clockid_t,
    /// What its clock said when it was last read.
    last: Duration,
}

/// A vCPU's thread is being measured until this is dropped, on that thread.
#[derive(Debug)]
pub struct Measured {
    time: Arc<VcpuTime>,
    clock: libc::clockid_t,
}

impl VcpuTime {
    /// A panic under the lock leaves durations, any of which is valid.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Measures the calling thread.
    ///
    /// # Errors
    /// When the system has no clock for it.
    pub fn measure(self: &Arc<Self>) -> io::Result<Measured> {
        let clock = clock_of_this_thread()?;
        let last = read(clock)?;
        self.lock().threads.push(Thread { clock, last });
        Ok(Measured {
            time: Arc::clone(self),
            clock,
        })
    }

    /// Reads the clocks. The time since the last call counts if samples were wanted then; `wanted` is for the time to come.
    pub fn count(&self, wanted: bool) {
        let mut state = self.lock();
        state.advance();
        state.wanted = wanted;
    }

    /// What has been counted, until now.
    pub fn counted(&self) -> Duration {
        let mut state = self.lock();
        state.advance();
        state.counted
    }
}

impl State {
    fn advance(&mut self) {
        for thread in &mut self.threads {
            // It unregisters before it ends, so its clock is there.
            let Ok(now) = read(thread.clock) else {
                continue;
            };
            if self.wanted {
                self.counted += now.saturating_sub(thread.last);
            }
            thread.last = now;
        }
    }
}

impl Drop for Measured {
    fn drop(&mut self) {
        let mut state = self.time.lock();
        state.advance();
        state.threads.retain(|thread| thread.clock != self.clock);
    }
}

fn clock_of_this_thread() -> io::Result<libc::clockid_t> {
    let mut clock = 0;
    // SAFETY: the calling thread's own id is valid, and `clock` is a valid place for the answer.
    match unsafe { libc::pthread_getcpuclockid(libc::pthread_self(), &raw mut clock) } {
        0 => Ok(clock),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

fn read(clock: libc::clockid_t) -> io::Result<Duration> {
    let mut time = MaybeUninit::<libc::timespec>::uninit();
    // SAFETY: `time` is a valid place for the answer; an unknown clock is an error.
    if unsafe { libc::clock_gettime(clock, time.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so it has filled it in.
    let time = unsafe { time.assume_init() };
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanoseconds = u32::try_from(time.tv_nsec).unwrap_or(0);
    Ok(Duration::new(seconds, nanoseconds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::thread;
    use std::time::Instant;

    /// Processor time of this thread.
    fn now() -> Duration {
        read(clock_of_this_thread().unwrap()).unwrap()
    }

    /// Runs until this thread has taken so much processor time.
    fn burn(time: Duration) {
        let start = now();
        while now() < start + time {}
    }

    const BURNT: Duration = Duration::from_millis(20);

    #[test]
    fn only_time_in_which_samples_are_wanted_counts() {
        let time = Arc::new(VcpuTime::default());
        let measured = time.measure().unwrap();
        burn(BURNT);
        // Other work may take the processor from this thread anywhere, so its own clock says what is too much.
        let start = now();
        time.count(true);
        let counted = time.counted();
        assert!(counted <= now() - start, "{counted:?}");
        burn(BURNT);
        time.count(false);
        let counted = time.counted();
        assert!(counted >= BURNT && counted <= now() - start, "{counted:?}");
        burn(BURNT);
        assert_eq!(time.counted(), counted);
        drop(measured);
    }

    /// What `work` does is measured on a thread of its own; returns the time that the thread's clock says it took.
    fn measured(
        time: &Arc<VcpuTime>,
        work: impl FnOnce() + Send + 'static,
    ) -> thread::JoinHandle<Duration> {
        let time = Arc::clone(time);
        thread::spawn(move || {
            let start = now();
            let measured = time.measure().unwrap();
            work();
            drop(measured);
            now() - start
        })
    }

    #[test]
    fn threads_add_up_and_one_that_waits_adds_nothing() {
        let time = Arc::new(VcpuTime::default());
        time.count(true);
        let (release, wait) = mpsc::channel::<()>();
        let waiting = Instant::now();
        let idle = measured(&time, move || {
            let _ = wait.recv();
        });
        let busy = [(); 2].map(|()| measured(&time, || burn(BURNT)));
        let busy: Duration = busy.map(|thread| thread.join().unwrap()).iter().sum();
        let counted = time.counted();
        let waited = waiting.elapsed();
        drop(release);
        let idle = idle.join().unwrap();
        assert!(idle < waited / 2, "{idle:?} of {waited:?}");
        assert!(
            counted >= 2 * BURNT && counted <= busy + idle,
            "{counted:?} of {busy:?} and {idle:?}"
        );
    }
}
