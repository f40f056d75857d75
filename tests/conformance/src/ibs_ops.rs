//! Operations of AMD's instruction-based sampling.

use std::collections::BTreeMap;

use oprofile_guest_agent::ibs::{Config, Ibs, Msrs};
use oprofile_guest_agent::writer::Sample;
use serde_json::{Map, Value, json};

use crate::machine::Cpu;
use crate::model::{IbsNmi, IbsSetup};

/// The registers that an operation sees, and what it writes.
#[derive(Default)]
struct Registers {
    values: BTreeMap<u32, u64>,
    written: Vec<(u32, u64)>,
}

impl Msrs for Registers {
    fn read(&mut self, register: u32) -> u64 {
        self.values.get(&register).copied().unwrap_or(0)
    }

    fn write(&mut self, register: u32, value: u64) {
        self.written.push((register, value));
    }
}

impl Registers {
    fn outcome(&self) -> Map<String, Value> {
        Map::from_iter([("wrmsr".into(), json!(self.written))])
    }
}

/// Sets capabilities and configuration.
pub const fn set_up(ibs: &mut Ibs, op: &IbsSetup) {
    let config = Config {
        fetch_enabled: op.fetch_enable != 0,
        op_enabled: op.op_enable != 0,
        fetch_max_count: op.max_cnt_fetch,
        op_max_count: op.max_cnt_op,
        randomize_fetch: op.rand_enable != 0,
        count_dispatched_ops: op.dispatched_ops != 0,
        branch_target: op.branch_target != 0,
    };
    ibs.configure(op.caps, config);
}

/// Arms the units; the outcome tells the counts that are used.
pub fn start(ibs: &mut Ibs) -> Map<String, Value> {
    let mut registers = Registers::default();
    ibs.start(&mut registers);
    let mut outcome = registers.outcome();
    let config = ibs.config();
    outcome.insert("max_cnt_fetch".into(), json!(config.fetch_max_count));
    outcome.insert("max_cnt_op".into(), json!(config.op_max_count));
    outcome
}

/// Disarms the units.
pub fn stop(ibs: &Ibs) -> Map<String, Value> {
    let mut registers = Registers::default();
    ibs.stop(&mut registers);
    registers.outcome()
}

/// Handles an interrupt on its CPU.
pub fn interrupt(ibs: &mut Ibs, cpu: &mut Cpu, op: &IbsNmi) -> Map<String, Value> {
    let mut registers = Registers {
        values: op.msrs.iter().copied().collect(),
        written: Vec::new(),
    };
    let interrupted = Sample {
        pc: 0,
        is_kernel: !op.user,
        event: 0,
        task: op.task,
    };
    let Cpu { fifo, writer } = cpu;
    ibs.handle(&mut registers, writer, fifo, &interrupted);
    registers.outcome()
}
