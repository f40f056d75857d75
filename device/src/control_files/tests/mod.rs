//! The files over a profiler that records what is asked of it.

mod device;
mod files;
mod lifecycle;
mod random;

use super::*;
use crate::event_buffer::EventBuffer;
use crate::sync::Mortuary;

/// A profiler with a real event buffer and mortuary. Each sync adds one word: the CPU.
#[derive(Debug)]
struct Recorder {
    cpus: u16,
    online: Vec<u16>,
    /// Steps of the life cycle, in order.
    steps: Vec<String>,
    events: EventBuffer,
    mortuary: Mortuary<u64>,
    freed: Vec<u64>,
    cookies: bool,
    counters: Counters,
    walker: bool,
    multiplexing: Multiplexing,
    switches_left: u64,
    /// What the hooks answer.
    set_up: Result<(), ControlError>,
    start: Result<(), ControlError>,
    sync_start: SyncStart,
    sync_stop: SyncStop,
}

impl Recorder {
    fn new(cpus: u16) -> Self {
        Self {
            cpus,
            online: (0..cpus).collect(),
            steps: Vec::new(),
            events: EventBuffer::default(),
            mortuary: Mortuary::default(),
            freed: Vec::new(),
            cookies: false,
            counters: Counters::default(),
            walker: true,
            multiplexing: Multiplexing::Available,
            switches_left: 0,
            set_up: Ok(()),
            start: Ok(()),
            sync_start: SyncStart::Generic,
            sync_stop: SyncStop::Generic,
        }
    }

    fn step(&mut self, step: impl Into<String>) {
        self.steps.push(step.into());
    }

    fn take_steps(&mut self) -> Vec<String> {
        std::mem::take(&mut self.steps)
    }
}

impl Hooks for Recorder {
    fn cpu_type(&self) -> &str {
        "test"
    }

    fn has_walker(&self) -> bool {
        self.walker
    }

    fn multiplexing(&self) -> Multiplexing {
        self.multiplexing
    }

    fn set_up(&mut self) -> Result<(), ControlError> {
        self.step("set up");
        self.set_up
    }

    fn shut_down(&mut self) {
        self.step("shut down");
    }

    fn start(&mut self) -> Result<(), ControlError> {
        self.step("start");
        self.start
    }

    fn stop(&mut self) {
        self.step("stop");
    }

    fn sync_start(&mut self) -> SyncStart {
        self.sync_start
    }

    fn sync_stop(&mut self) -> SyncStop {
        self.sync_stop
    }

    fn switch_events(&mut self) -> bool {
        let left = self.switches_left.checked_sub(1);
        self.switches_left = left.unwrap_or(0);
        left.is_some()
    }
}

impl Profiler for Recorder {
    fn cpus(&self) -> u16 {
        self.cpus
    }

    fn is_online(&self, cpu: u16) -> bool {
        self.online.contains(&cpu)
    }

    fn set_backtrace_depth(&mut self, depth: u64) -> Result<(), ControlError> {
        self.step(format!("depth {depth}"));
        Ok(())
    }

    fn allocate_cpu_buffers(&mut self, entries: u64) -> Result<(), ControlError> {
        self.step(format!("cpu buffers {entries}"));
        Ok(())
    }

    fn free_cpu_buffers(&mut self) {
        self.step("free cpu buffers");
    }

    fn allocate_event_buffer(&mut self, size: u64, watershed: u64) -> Result<(), ControlError> {
        self.step(format!("events {size} {watershed}"));
        // Random sizes must not fill memory.
        if size > 1 << 18 {
            return Err(ControlError::OutOfMemory);
        }
        let (size, watershed) = (
            usize::try_from(size).unwrap(),
            usize::try_from(watershed).unwrap(),
        );
        self.events.allocate(size, watershed).unwrap();
        Ok(())
    }

    fn free_event_buffer(&mut self) {
        self.step("free events");
        self.events.free();
    }

    fn wake_reader(&mut self) {
        self.events.dump();
    }

    fn take_events(&mut self) -> Result<Vec<u64>, ControlError> {
        if !self.events.is_ready() {
            return Err(ControlError::WouldWait);
        }
        if !self.events.is_allocated() {
            return Err(ControlError::Interrupted);
        }
        let mut words = Vec::new();
        self.events.take(&mut words);
        Ok(words)
    }

    fn clear_events(&mut self) {
        self.events.clear();
    }

    fn register_notifications(&mut self) {
        self.step("register");
        self.mortuary.register();
        self.mortuary
            .set_online(self.online.iter().copied().collect());
    }

    fn unregister_notifications(&mut self) {
        self.step("unregister");
        self.freed.extend(self.mortuary.unregister());
    }

    fn sync(&mut self, cpu: u16) {
        self.step(format!("sync {cpu}"));
        self.events.add(cpu.into());
        self.freed.extend(self.mortuary.mark(cpu));
    }

    fn register_cookie_user(&mut self) {
        assert!(!self.cookies, "one user at a time");
        self.cookies = true;
    }

    fn unregister_cookie_user(&mut self) {
        assert!(self.cookies);
        self.cookies = false;
    }

    fn cookie_file(&self, cookie: u64) -> Option<CookieFile> {
        (self.cookies && cookie == 7).then(|| CookieFile {
            path: b"/bin/a".to_vec(),
            deleted: false,
        })
    }

    fn reset_counters(&mut self) {
        self.counters = Counters::default();
    }

    fn counters(&self) -> Counters {
        self.counters
    }

    fn cpu_counters(&self, cpu: u16) -> CpuCounters {
        CpuCounters {
            sample_received: cpu.into(),
            ..CpuCounters::default()
        }
    }
}

fn files(cpus: u16) -> ControlFiles<Recorder> {
    ControlFiles::new(Recorder::new(cpus))
}

fn opened(cpus: u16) -> ControlFiles<Recorder> {
    let mut files = files(cpus);
    files.open_event_buffer(Caller::Administrator).unwrap();
    files.profiler_mut().take_steps();
    files
}

fn text(files: &mut ControlFiles<Recorder>, path: &str) -> String {
    String::from_utf8(files.read(path, 0, 4096).unwrap()).unwrap()
}

fn write(
    files: &mut ControlFiles<Recorder>,
    path: &str,
    text: &str,
) -> Result<usize, ControlError> {
    files.write(path, 0, text.as_bytes())
}
