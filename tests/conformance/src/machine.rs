//! Executes what happens on a scenario's machine, on the device's pipeline and the guest's writer. What is asked of its
//! control files is [`Session`](crate::session::Session)'s.

use std::mem;

use oprofile_device::event_buffer::EventBuffer;
use oprofile_device::sync::Pipeline;
use oprofile_guest_agent::ibs::{self, Ibs};
use oprofile_guest_agent::writer::{Sample, Tracer, Writer};
use oprofile_wire::MAX_VCPUS;
use oprofile_wire::sample::Entry;
use serde_json::{Map, Value, json};

use crate::ScenarioError;
use crate::fifo::Fifo;
use crate::guest::Guest;
use crate::ibs_ops;
use crate::model::{Add, AddKind, Config, Injection, ModuleState, Op};
use crate::profiler::HookValues;
use crate::x86_ops;

/// What the original answers to a refused argument.
const EINVAL: i64 = -22;

/// One possible CPU.
#[derive(Debug, Default)]
pub struct Cpu {
    pub fifo: Fifo,
    pub writer: Writer,
}

/// How call chains are walked.
#[derive(Clone, Copy, Debug)]
pub struct Walk {
    /// The setting.
    pub depth: u64,
    /// There is a walker; without one no frame is offered.
    pub walker: bool,
}

/// The state of a scenario that runs.
#[derive(Debug)]
pub struct Machine<G> {
    pub(crate) cpus: Vec<Cpu>,
    online: Vec<u16>,
    pub(crate) walk: Walk,
    pub(crate) hooks: HookValues,
    pub(crate) guest: G,
    pub(crate) pipeline: Pipeline<u64>,
    pub(crate) events: EventBuffer,
    ibs: Ibs,
    /// Tasks freed by the operation that runs.
    pub(crate) freed: Vec<u64>,
}

impl<G> Machine<G> {
    pub fn is_online(&self, cpu: u16) -> bool {
        self.online.contains(&cpu)
    }
}

impl<G: Guest> Machine<G> {
    /// The state before anybody opens the event buffer.
    pub fn new(config: &Config, guest: G) -> Result<Self, ScenarioError> {
        if config.cpus > MAX_VCPUS {
            return Err(ScenarioError::TooManyCpus(config.cpus));
        }
        let mut machine = Self {
            cpus: (0..config.cpus).map(|_| Cpu::default()).collect(),
            online: Vec::new(),
            walk: Walk {
                depth: config.backtrace_depth,
                walker: true,
            },
            hooks: HookValues::default(),
            guest,
            pipeline: Pipeline::default(),
            events: EventBuffer::default(),
            ibs: Ibs::new(0, ibs::Config::default()),
            freed: Vec::new(),
        };
        machine.set_online(&config.online)?;
        Ok(machine)
    }

    /// Executes `op` and returns its result object.
    pub fn execute(&mut self, op: &Op) -> Result<Value, ScenarioError> {
        let result = self.outcome(op)?;
        Ok(self.with_effects(result))
    }

    /// The result object of an operation with this outcome: what it did besides is added.
    pub fn with_effects(&mut self, mut result: Map<String, Value>) -> Value {
        let freed = mem::take(&mut self.freed);
        if !freed.is_empty() {
            result.insert("freed".into(), json!(freed));
        }
        let wakeups = self.events.take_wakeups();
        if wakeups != 0 {
            result.insert("woke".into(), json!(wakeups));
        }
        Value::Object(result)
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
                self.guest.check_task(*task)?;
                if self.is_notified() {
                    self.sync(*cpu, &[])?;
                }
            }
            Op::Munmap { cpu, task, addr } => {
                if self.guest.unmap_needs_sync(*task, *addr)? && self.is_notified() {
                    self.sync(*cpu, &[])?;
                }
            }
            Op::Module { state } => {
                if *state == ModuleState::Coming && self.is_notified() {
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
            Op::SetTaskMm { task, mm } => self.guest.set_mm(*task, *mm)?,
            Op::SetKthread { task, kthread } => self.guest.set_kthread(*task, *kthread)?,
            Op::SetTaskIds { task, pid, tgid } => self.guest.set_ids(*task, *pid, *tgid)?,
            Op::SetExe { mm, file } => self.guest.set_exe(*mm, *file)?,
            Op::SetVmas { mm, vmas } => self.guest.set_vmas(*mm, vmas.clone())?,
            Op::SetOnline { cpus } => self.set_online(cpus)?,
            Op::MarkDeleted { file } => self.guest.mark_deleted(*file)?,
            Op::DumpRing { cpu } => {
                let ring = cpu_mut(&mut self.cpus, *cpu)?.fifo.to_json();
                return Ok(Map::from_iter([("ring".into(), ring)]));
            }
            Op::X86Sample(op) => {
                x86_ops::sample(cpu_mut(&mut self.cpus, op.cpu)?, self.walk, op)?;
            }
            Op::IbsSetup(op) => ibs_ops::set_up(&mut self.ibs, op),
            Op::IbsStart {} => return Ok(ibs_ops::start(&mut self.ibs)),
            Op::IbsStop {} => return Ok(ibs_ops::stop(&self.ibs)),
            Op::IbsNmi(op) => {
                let cpu = cpu_mut(&mut self.cpus, op.cpu)?;
                return Ok(ibs_ops::interrupt(&mut self.ibs, cpu, op));
            }
            write => return write_op(&mut self.cpus, self.walk, write),
        }
        Ok(Map::new())
    }

    /// Whether task exits, unmappings and modules are told to the profiler.
    const fn is_notified(&self) -> bool {
        self.pipeline.mortuary().is_registered()
    }

    fn set_online(&mut self, cpus: &[u16]) -> Result<(), ScenarioError> {
        for &cpu in cpus {
            cpu_mut(&mut self.cpus, cpu)?;
        }
        self.online = cpus.to_vec();
        self.pipeline
            .mortuary_mut()
            .set_online(cpus.iter().copied().collect());
        Ok(())
    }

    fn sync(&mut self, cpu: u16, inject: &[Injection]) -> Result<(), ScenarioError> {
        cpu_mut(&mut self.cpus, cpu)?;
        let walk = self.walk;
        self.sync_with(cpu, |cpus, at| {
            for injection in inject.iter().filter(|injection| injection.at == at) {
                write_op(cpus, walk, &injection.op)?;
            }
            Ok(())
        })
    }

    /// Syncs `cpu`. `inject` is called with −1 once the writer's state has been reset, and with the index of each entry
    /// before it is consumed.
    pub fn sync_with<E>(
        &mut self,
        cpu: u16,
        mut inject: impl FnMut(&mut [Cpu], i64) -> Result<(), E>,
    ) -> Result<(), E> {
        let index = usize::from(cpu);
        if let Some(cpu) = self.cpus.get_mut(index) {
            cpu.writer.reset_notes();
        }
        let mut world = self.guest.world();
        let mut sync = self.pipeline.begin(cpu, &mut self.events);
        inject(&mut self.cpus, -1)?;
        let count = self.cpus.get(index).map_or(0, |cpu| cpu.fifo.len());
        for at in (0..).take(count) {
            inject(&mut self.cpus, at)?;
            let Some(entry) = self.cpus.get_mut(index).and_then(|cpu| cpu.fifo.pop()) else {
                break;
            };
            if let [eip, event, data @ ..] = &entry[..] {
                let entry = Entry {
                    eip: *eip,
                    event: *event,
                    data,
                };
                sync.entry(&mut world, entry);
            }
        }
        self.freed.extend(sync.end());
        Ok(())
    }

    /// The state after the last operation, but for what the life cycle knows.
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
            "stats": {
                "sample_lost_no_mm": statistics.sample_lost_no_mm,
                "sample_lost_no_mapping": statistics.sample_lost_no_mapping,
                "bt_lost_no_mapping": statistics.bt_lost_no_mapping,
                "event_lost_overflow": self.events.lost_words(),
            },
            "cpus": cpus,
            "rings": self.cpus.iter().map(|cpu| cpu.fifo.to_json()).collect::<Vec<_>>(),
            "dying": mortuary.dying().collect::<Vec<_>>(),
            "dead": mortuary.dead().collect::<Vec<_>>(),
            "dcookies": self.guest.cookies(),
        })
    }
}

fn cpu_mut(cpus: &mut [Cpu], cpu: u16) -> Result<&mut Cpu, ScenarioError> {
    cpus.get_mut(usize::from(cpu))
        .ok_or(ScenarioError::UnknownCpu(cpu))
}

/// Executes an operation of the writer, which is also what may arrive during a sync.
fn write_op(cpus: &mut [Cpu], walk: Walk, op: &Op) -> Result<Map<String, Value>, ScenarioError> {
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
            write_sample(cpu_mut(cpus, *cpu)?, &sample, walk, trace);
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
            write_sample(cpu_mut(cpus, *cpu)?, &sample, walk, trace);
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
            write_sample(cpu_mut(cpus, *cpu)?, &sample, walk, trace);
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

fn write_sample(Cpu { fifo, writer }: &mut Cpu, sample: &Sample, walk: Walk, trace: &[u64]) {
    let trace = if walk.walker { trace } else { &[] };
    writer.sample(
        fifo,
        sample,
        walk.depth,
        |depth, tracer: &mut Tracer<'_, Fifo>| {
            for &pc in trace.iter().take(depth as usize) {
                tracer.frame(pc);
            }
        },
    );
}
