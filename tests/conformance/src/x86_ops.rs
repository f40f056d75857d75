//! Samples whose call chain is walked on an x86 stack.

use oprofile_guest_agent::writer::{Sample, Tracer};
use oprofile_guest_agent::x86_backtrace::{StackMemory, Width, walk_kernel, walk_user};

use crate::ScenarioError;
use crate::fifo::Fifo;
use crate::machine::{Cpu, Walk};
use crate::model::X86Sample;

const WORD_BYTES: u64 = 8;

/// The readable memory of a scenario.
struct Areas<'a> {
    /// First address and contents of each.
    areas: Vec<(u64, &'a [u64])>,
}

impl<'a> Areas<'a> {
    fn new(memory: &'a [Vec<u64>]) -> Result<Self, ScenarioError> {
        let area = |row: &'a Vec<u64>| match &row[..] {
            [address, words @ ..] => Ok((*address, words)),
            [] => Err(ScenarioError::AreaWithoutAddress),
        };
        let areas = memory.iter().map(area).collect::<Result<_, _>>()?;
        Ok(Self { areas })
    }

    /// The byte at `address`, in whichever area it lies.
    fn byte(&self, address: u64) -> Option<u8> {
        self.areas.iter().find_map(|&(start, words)| {
            let offset = address.checked_sub(start)?;
            let index = usize::try_from(offset / WORD_BYTES).ok()?;
            let bytes = words.get(index)?.to_le_bytes();
            let [shift, ..] = (offset % WORD_BYTES).to_le_bytes();
            bytes.get(usize::from(shift)).copied()
        })
    }
}

impl StackMemory for Areas<'_> {
    fn read(&mut self, address: u64, bytes: &mut [u8]) -> bool {
        (0..).zip(bytes).all(|(offset, byte)| {
            let found = address
                .checked_add(offset)
                .and_then(|address| self.byte(address));
            *byte = found.unwrap_or(0);
            found.is_some()
        })
    }
}

/// Takes the sample on its CPU.
pub fn sample(cpu: &mut Cpu, walk: Walk, op: &X86Sample) -> Result<(), ScenarioError> {
    let sample = Sample {
        pc: op.ip,
        is_kernel: !op.user,
        event: op.event,
        task: op.task,
    };
    let mut memory = Areas::new(&op.memory)?;
    let width = if op.ia32 {
        Width::Bits32
    } else {
        Width::Bits64
    };
    let Cpu { fifo, writer } = cpu;
    let chain = |depth, tracer: &mut Tracer<'_, Fifo>| {
        let frame = |pc| tracer.frame(pc);
        match (walk.walker, op.user) {
            (false, _) => {}
            (true, true) => walk_user(&mut memory, width, op.bp, depth, frame),
            (true, false) => walk_kernel(op.kernel_trace.iter().copied(), depth, frame),
        }
    };
    writer.sample(fifo, &sample, walk.depth, chain);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_may_span_adjacent_areas_and_no_gap() {
        let memory = [
            vec![0x1000, 0x1111],
            vec![0x1008, 0x2222],
            vec![0x1018, 0x3333],
        ];
        let mut areas = Areas::new(&memory).unwrap();
        let mut bytes = [0; 8];
        assert!(areas.read(0x1004, &mut bytes));
        assert_eq!(u64::from_le_bytes(bytes), 0x2222 << 32);
        assert!(!areas.read(0x100c, &mut bytes));
        assert!(!areas.read(0xfff, &mut bytes));
        assert!(!areas.read(u64::MAX - 3, &mut bytes));
    }
}
