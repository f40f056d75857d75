//! Executes the operations of a scenario on the device's pipeline and the guest's writer.

use std::mem;

use oprofile_device::event_buffer::{EventBuffer, check_read};
use oprofile_device::sync::Pipeline;
use oprofile_guest_agent::writer::{Sample, Tracer, Writer};
use oprofile_wire::MAX_VCPUS;
use oprofile_wire::sample::Entry;
use serde_json::{Map, Value, json};

use crate::ScenarioError;
use crate::fifo::Fifo;
use crate::model::{Add, AddKind, Config, File, Injection, Mm, ModuleState, Op, Task};
use crate::world::ScriptedWorld;

/// OProfile's settings where a scenario leaves them alone.
const DEFAULT_BUFFER_SIZE: u64 = 131_072;
const DEFAULT_BUFFER_WATERSHED: u64 = 32_768;
const DEFAULT_CPU_BUFFER_SIZE: u64 = 8192;

/// Largest event buffer that a scenario may ask for, in words: 512 times the default, and still half a GiB.
const MAX_BUFFER_SIZE: u64 = 1 << 26;
/// Largest CPU buffer, in entries; it bounds the largest data record as well.
const MAX_CPU_BUFFER_SIZE: u64 = 1 << 22;

/// What the original answers to a refused argument.
const EINVAL: i64 = -22;

/// One possible CPU.
#[derive(Debug)]
struct Cpu {
    fifo: Fifo,
    writer: Writer,
}

/// The state of a scenario that runs.
#[derive(Debug)]
pub struct Machine {
    cpus: Vec<Cpu>,
    backtrace_depth: u64,
    world: ScriptedWorld,
    pipeline: Pipeline<u64>,
    events: EventBuffer,
    /// Tasks freed by the operation that runs.
    freed: Vec<u64>,
}

impl Machine {
    /// The state before the first operation: open and started.
    pub fn new(
        config: &Config,
        files: Vec<File>,
        mms: Vec<Mm>,
        tasks: Vec<Task>,
    ) -> Result<Self, ScenarioError> {
        if !config.auto_start {
            return Err(ScenarioError::NotStarted);
        }
        if config.cpus > MAX_VCPUS {
            return Err(ScenarioError::TooManyCpus(config.cpus));
        }
        let limited = |value: Option<u64>, default, max| match value.unwrap_or(default) {
            value if value > max => Err(ScenarioError::BufferTooLarge { value, max }),
            value => Ok(value),
        };
        let size = limited(config.buffer_size, DEFAULT_BUFFER_SIZE, MAX_BUFFER_SIZE)?;
        let watershed = limited(
            config.buffer_watershed,
            DEFAULT_BUFFER_WATERSHED,
            MAX_BUFFER_SIZE,
        )?;
        let cpu_buffer = limited(
            config.cpu_buffer_size,
            DEFAULT_CPU_BUFFER_SIZE,
            MAX_CPU_BUFFER_SIZE,
        )?;
        let mut machine = Self {
            cpus: (0..config.cpus)
                .map(|_| Cpu {
                    fifo: Fifo::new(cpu_buffer),
                    writer: Writer::new(),
                })
                .collect(),
            backtrace_depth: config.backtrace_depth,
            world: ScriptedWorld::new(files, mms, tasks)?,
            pipeline: Pipeline::default(),
            events: EventBuffer::new(words(size)?, words(watershed)?)?,
            freed: Vec::new(),
        };
        machine.pipeline.mortuary_mut().register();
        machine.set_online(&config.online)?;
        Ok(machine)
    }

    /// Executes `op` and returns its result object.
    pub fn execute(&mut self, op: &Op) -> Result<Value, ScenarioError> {
        let mut result = self.outcome(op)?;
        let freed = mem::take(&mut self.freed);
        if !freed.is_empty() {
            result.insert("freed".into(), json!(freed));
        }
        let wakeups = self.events.take_wakeups();
        if wakeups != 0 {
            result.insert("woke".into(), json!(wakeups));
        }
        Ok(Value::Object(result))
    }

    fn outcome(&mut self, op: &Op) -> Result<Map<String, Value>, ScenarioError> {
        match op {
            Op::Entries { cpu, entries } => {
                let fifo = &mut cpu_mut(&mut self.cpus, *cpu)?.fifo;
                for entry in entries {
                    if entry.len() < 2 {
                        return Err(ScenarioError::ShortEntry(entry.len()));
                    }
                    fifo.force(entry.clone());
                }
            }
            Op::Sync { cpu, inject } => self.sync(*cpu, inject)?,
            Op::TaskExit { cpu, task } => {
                self.world.task_mut(*task)?;
                self.sync(*cpu, &[])?;
            }
            Op::Munmap { cpu, task, addr } => {
                if self.world.unmap_needs_sync(*task, *addr)? {
                    self.sync(*cpu, &[])?;
                }
            }
            Op::Module { state } => {
                if *state == ModuleState::Coming {
                    self.events.module_loaded();
                }
            }
            Op::TaskFree { task } => {
                self.freed.extend(self.pipeline.mortuary_mut().bury(*task));
            }
            Op::PutBuff {
                buf,
                start,
                stop,
                max,
            } => {
                self.events.add_ring(buf, *start, *stop, *max)?;
            }
            Op::Dump {} => self.events.dump(),
            Op::Read { count, offset } => return Ok(self.read(*count, *offset)),
            Op::SetTaskMm { task, mm } => self.world.set_mm(*task, *mm)?,
            Op::SetKthread { task, kthread } => self.world.task_mut(*task)?.kthread = *kthread,
            Op::SetTaskIds { task, pid, tgid } => {
                let task = self.world.task_mut(*task)?;
                (task.pid, task.tgid) = (*pid, *tgid);
            }
            Op::SetExe { mm, file } => self.world.set_exe(*mm, *file)?,
            Op::SetVmas { mm, vmas } => self.world.set_vmas(*mm, vmas.clone())?,
            Op::SetOnline { cpus } => self.set_online(cpus)?,
            Op::MarkDeleted { file } => self.world.mark_deleted(*file)?,
            Op::DumpRing { cpu } => {
                let ring = cpu_mut(&mut self.cpus, *cpu)?.fifo.to_json();
                return Ok(Map::from_iter([("ring".into(), ring)]));
            }
            write => return write_op(&mut self.cpus, self.backtrace_depth, write),
        }
        Ok(Map::new())
    }

    fn set_online(&mut self, cpus: &[u16]) -> Result<(), ScenarioError> {
        for &cpu in cpus {
            cpu_mut(&mut self.cpus, cpu)?;
        }
        self.pipeline
            .mortuary_mut()
            .set_online(cpus.iter().copied().collect());
        Ok(())
    }

    fn sync(&mut self, cpu: u16, inject: &[Injection]) -> Result<(), ScenarioError> {
        let depth = self.backtrace_depth;
        let injected = |cpus: &mut [Cpu], at: i64| -> Result<(), ScenarioError> {
            for injection in inject.iter().filter(|injection| injection.at == at) {
                write_op(cpus, depth, &injection.op)?;
            }
            Ok(())
        };
        let writer = &mut cpu_mut(&mut self.cpus, cpu)?.writer;
        writer.reset_notes();
        let mut sync = self.pipeline.begin(cpu, &mut self.events);
        injected(&mut self.cpus, -1)?;
        let count = cpu_mut(&mut self.cpus, cpu)?.fifo.len();
        for index in 0..count {
            injected(&mut self.cpus, i64::try_from(index).unwrap_or(i64::MAX))?;
            let Some(entry) = cpu_mut(&mut self.cpus, cpu)?.fifo.pop() else {
                break;
            };
            if let [eip, event, data @ ..] = &entry[..] {
                let entry = Entry {
                    eip: *eip,
                    event: *event,
                    data,
                };
                sync.entry(&mut self.world, entry);
            }
        }
        self.freed.extend(sync.end());
        Ok(())
    }

    fn read(&mut self, count: Option<u64>, offset: u64) -> Map<String, Value> {
        let size = self.events.size();
        let count = count.unwrap_or_else(|| (size as u64).saturating_mul(8));
        let (key, value) = if check_read(size, count, offset).is_err() {
            ("rc", json!(EINVAL))
        } else if self.events.is_ready() {
            let mut words = Vec::new();
            self.events.take(&mut words);
            ("words", json!(words))
        } else {
            ("blocked", json!(true))
        };
        Map::from_iter([(key.into(), value)])
    }

    /// The state after the last operation.
    pub fn end(&self) -> Value {
        let statistics = self.pipeline.statistics();
        let cpus: Vec<_> = self
            .cpus
            .iter()
            .map(|cpu| {
                let counters = cpu.writer.counters();
                json!({
                    "sample_received": counters.received,
                    "sample_lost_overflow": counters.lost,
                    "backtrace_aborted": counters.aborted,
                    "sample_invalid_eip": counters.invalid,
                })
            })
            .collect();
        let mortuary = self.pipeline.mortuary();
        json!({
            "pending": self.events.pending(),
            "ready": u64::from(self.events.is_ready()),
            // Nothing in the supported families closes, stops, or lets the time pass in which events are switched.
            "opened": 1,
            "started": 1,
            "stats": {
                "sample_lost_no_mm": statistics.sample_lost_no_mm,
                "sample_lost_no_mapping": statistics.sample_lost_no_mapping,
                "bt_lost_no_mapping": statistics.bt_lost_no_mapping,
                "event_lost_overflow": self.events.lost_words(),
                "multiplex_counter": 0,
            },
            "cpus": cpus,
            "rings": self.cpus.iter().map(|cpu| cpu.fifo.to_json()).collect::<Vec<_>>(),
            "dying": mortuary.dying().collect::<Vec<_>>(),
            "dead": mortuary.dead().collect::<Vec<_>>(),
            "dcookies": self.world.cookies(),
        })
    }
}

fn words(count: u64) -> Result<usize, ScenarioError> {
    usize::try_from(count).map_err(|_| ScenarioError::BufferTooLarge {
        value: count,
        max: usize::MAX as u64,
    })
}

fn cpu_mut(cpus: &mut [Cpu], cpu: u16) -> Result<&mut Cpu, ScenarioError> {
    cpus.get_mut(usize::from(cpu))
        .ok_or(ScenarioError::UnknownCpu(cpu))
}

/// Executes an operation of the writer, which is also what may arrive during a sync.
fn write_op(cpus: &mut [Cpu], depth: u64, op: &Op) -> Result<Map<String, Value>, ScenarioError> {
    match op {
        Op::Sample {
            cpu,
            task,
            user,
            pc,
            event,
            trace,
        } => {
            let sample = Sample {
                pc: *pc,
                is_kernel: !user,
                event: *event,
                task: *task,
            };
            write_sample(cpu_mut(cpus, *cpu)?, &sample, depth, trace);
        }
        Op::ExtSample {
            cpu,
            task,
            pc,
            event,
            is_kernel,
            trace,
        } => {
            let sample = Sample {
                pc: *pc,
                is_kernel: *is_kernel,
                event: *event,
                task: *task,
            };
            write_sample(cpu_mut(cpus, *cpu)?, &sample, depth, trace);
        }
        Op::HwSample {
            cpu,
            task,
            pc,
            event,
            is_kernel,
            sample_task,
            trace,
        } => {
            let task = sample_task.unwrap_or(*task);
            let sample = Sample {
                pc: *pc,
                is_kernel: *is_kernel,
                event: *event,
                task,
            };
            write_sample(cpu_mut(cpus, *cpu)?, &sample, depth, trace);
        }
        Op::SampleNullRegs { cpu, .. } => cpu_mut(cpus, *cpu)?.writer.sample_without_registers(),
        Op::AddPc {
            cpu,
            task,
            pc,
            is_kernel,
            event,
        } => {
            let Cpu { fifo, writer } = cpu_mut(cpus, *cpu)?;
            let sample = Sample {
                pc: *pc,
                is_kernel: *is_kernel,
                event: *event,
                task: *task,
            };
            writer.add_pc(fifo, &sample);
        }
        Op::AddTrace { cpu, pc } => {
            let Cpu { fifo, writer } = cpu_mut(cpus, *cpu)?;
            writer.add_trace(fifo, *pc);
        }
        Op::IncLost { cpu } => cpu_mut(cpus, *cpu)?.writer.inc_lost(),
        Op::DataSample {
            cpu,
            task,
            user,
            pc,
            code,
            size,
            adds,
        } => {
            let Cpu { fifo, writer } = cpu_mut(cpus, *cpu)?;
            let sample = Sample {
                pc: *pc,
                is_kernel: !user,
                event: 0,
                task: *task,
            };
            let mut data = writer.reserve_data(fifo, &sample, *code, *size);
            let left: Vec<_> = adds
                .iter()
                .map(|Add(kind, value)| match kind {
                    AddKind::Word => data.add(*value),
                    AddKind::U64 => data.add64(*value),
                })
                .collect();
            let rc = data.commit().map_or(EINVAL, |()| 0);
            return Ok(Map::from_iter([
                ("adds".into(), json!(left)),
                ("rc".into(), json!(rc)),
            ]));
        }
        _ => return Err(ScenarioError::NotAWriterOp),
    }
    Ok(Map::new())
}

fn write_sample(Cpu { fifo, writer }: &mut Cpu, sample: &Sample, depth: u64, trace: &[u64]) {
    writer.sample(
        fifo,
        sample,
        depth,
        |depth, tracer: &mut Tracer<'_, Fifo>| {
            for &pc in trace.iter().take(depth as usize) {
                tracer.frame(pc);
            }
        },
    );
}
