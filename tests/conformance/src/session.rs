//! Executes a scenario: its operations on the control files, and everything else on the machine behind them.

use oprofile_device::control_files::{Caller, ControlError, ControlFiles, Values};
use serde_json::{Map, Value, json};

use crate::ScenarioError;
use crate::guest::Guest;
use crate::machine::Machine;
use crate::model::{Config, Hook, Op};

/// Largest event buffer that a scenario may begin with, in words: 512 times the default, and still half a GiB.
const MAX_BUFFER_SIZE: u64 = 1 << 26;
/// Largest CPU buffer that it may begin with, in entries.
const MAX_CPU_BUFFER_SIZE: u64 = 1 << 22;
/// Longest time that may pass at once, in jiffies: almost three hours.
const MAX_TICK: u64 = 10_000_000;

/// Bytes that are read of a control file when a scenario does not say.
const READ_BYTES: u64 = 4096;

/// A scenario that runs.
#[derive(Debug)]
pub struct Session<G> {
    files: ControlFiles<Machine<G>>,
    caller: Caller,
}

impl<G: Guest> Session<G> {
    /// The state before the first operation.
    pub fn new(config: &Config, guest: G) -> Result<Self, ScenarioError> {
        let limited = |value: Option<u64>, default, max| match value.unwrap_or(default) {
            value if value > max => Err(ScenarioError::BufferTooLarge { value, max }),
            value => Ok(value),
        };
        let fresh = Values::default();
        let values = Values {
            buffer_size: limited(config.buffer_size, fresh.buffer_size, MAX_BUFFER_SIZE)?,
            buffer_watershed: limited(
                config.buffer_watershed,
                fresh.buffer_watershed,
                MAX_BUFFER_SIZE,
            )?,
            cpu_buffer_size: limited(
                config.cpu_buffer_size,
                fresh.cpu_buffer_size,
                MAX_CPU_BUFFER_SIZE,
            )?,
            backtrace_depth: config.backtrace_depth,
            ..fresh
        };
        let machine = Machine::new(config, guest)?;
        let mut session = Self {
            files: ControlFiles::with_values(machine, values),
            caller: Caller::Administrator,
        };
        if config.auto_start {
            let files = &mut session.files;
            files
                .open_event_buffer(session.caller)
                .and_then(|()| files.start())
                .map_err(ScenarioError::NotStarted)?;
            // What that did besides is not reported.
            files.profiler_mut().with_effects(Map::new());
        }
        Ok(session)
    }

    /// Executes `op` and returns its result object.
    pub fn execute(&mut self, op: &Op) -> Result<Value, ScenarioError> {
        match self.outcome(op)? {
            Some(outcome) => Ok(self.files.profiler_mut().with_effects(outcome)),
            None => self.files.profiler_mut().execute(op),
        }
    }

    /// The outcome of an operation on the control files; `None` for any other.
    fn outcome(&mut self, op: &Op) -> Result<Option<Map<String, Value>>, ScenarioError> {
        let files = &mut self.files;
        Ok(Some(match op {
            Op::Open {} => answer(files.open_event_buffer(self.caller)),
            Op::Close {} => answer(files.close_event_buffer()),
            Op::Start {} => answer(files.start()),
            Op::Stop {} => {
                files.stop();
                Map::new()
            }
            Op::Dump {} => {
                let dumped = files.write("dump", 0, b"1");
                dumped.map_or_else(refusal, |_| Map::new())
            }
            Op::Read { count, offset } => {
                let count = count.unwrap_or_else(|| files.life_cycle().read_bytes());
                let read = files.read_event_buffer(*offset, count);
                read.map_or_else(refusal, |words| entry("words", json!(words)))
            }
            Op::Tick { jiffies } => {
                if *jiffies > MAX_TICK {
                    return Err(ScenarioError::TickTooLong(*jiffies));
                }
                files.tick(*jiffies);
                Map::new()
            }
            Op::FsList {} => {
                let list = files.list().into_iter();
                let list = list.map(|file| json!([file.path, format!("{:o}", file.mode)]));
                entry("files", list.collect())
            }
            Op::FsRead {
                path,
                count,
                offset,
            } => {
                let read = files.read(path, *offset, count.unwrap_or(READ_BYTES));
                read.map_or_else(refusal, |bytes| {
                    entry("text", json!(String::from_utf8_lossy(&bytes)))
                })
            }
            Op::FsWrite { path, text, offset } => {
                let written = files.write(path, *offset, text.as_bytes());
                written.map_or_else(refusal, |count| entry("rc", json!(count)))
            }
            Op::Lookup { cookie, len } => {
                let found = files.lookup_dcookie(self.caller, *cookie, *len);
                found.map_or_else(refusal, |path| {
                    let text = path.strip_suffix(b"\0").unwrap_or(&path);
                    let mut outcome = entry("rc", json!(path.len()));
                    outcome.insert("path".into(), json!(String::from_utf8_lossy(text)));
                    outcome
                })
            }
            Op::Hook { name, value } => {
                self.set_hook(*name, *value);
                Map::new()
            }
            _ => return Ok(None),
        }))
    }

    fn set_hook(&mut self, name: Hook, value: i32) {
        let machine = self.files.profiler_mut();
        let hooks = &mut machine.hooks;
        match name {
            Hook::Setup => hooks.setup = value,
            Hook::Start => hooks.start = value,
            Hook::SwitchEvents => hooks.switch_events = value,
            Hook::SyncStart => hooks.sync_start = Some(value),
            Hook::SyncStop => hooks.sync_stop = Some(value),
            Hook::Backtrace => machine.walk.walker = value != 0,
            Hook::Capable if value == 0 => self.caller = Caller::Other,
            Hook::Capable => self.caller = Caller::Administrator,
        }
    }

    /// What the guest answered otherwise than the scenario's world has it, in words.
    pub fn contradictions(&self) -> &[String] {
        self.files.profiler().guest.contradictions()
    }

    /// The state after the last operation.
    pub fn end(&self) -> Value {
        let cycle = self.files.life_cycle();
        let mut end = self.files.profiler().end();
        end["opened"] = json!(u64::from(cycle.is_open()));
        end["started"] = json!(u64::from(cycle.is_started()));
        end["stats"]["multiplex_counter"] = json!(cycle.switches());
        end
    }
}

fn entry(key: &str, value: Value) -> Map<String, Value> {
    Map::from_iter([(key.into(), value)])
}

fn answer(result: Result<(), ControlError>) -> Map<String, Value> {
    result.map_or_else(refusal, |()| entry("rc", json!(0)))
}

/// A system call that would sleep does not return.
fn refusal(error: ControlError) -> Map<String, Value> {
    match error {
        ControlError::WouldWait => entry("blocked", json!(true)),
        error => entry("rc", json!(error.code())),
    }
}
