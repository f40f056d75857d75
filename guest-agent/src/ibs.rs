//! AMD's instruction-based sampling: what the sampling interrupt does with the processor's fetch and op samples.
//!
//! After OProfile's handler (Linux 4.7). A sample becomes a data record of the [`Writer`]: its code, its address, then
//! the registers, each as two words of 32 bits. Pure: registers are behind [`Msrs`], so nothing here is unsafe or
//! privileged. Without a capability everything is inert.
//!
//! Registers and bits: AMD64 Architecture Programmer's Manual volume 2, "Instruction-Based Sampling".

use crate::writer::{EntryStore, Sample, Writer};

/// Code of a fetch sample's data record; 6 words follow its address.
pub const FETCH_CODE: u64 = 13;
/// Code of an op sample's data record; 12 words follow its address, 13 with the branch target.
pub const OP_CODE: u64 = 14;

/// Words of a fetch sample: linear address, control register, physical address.
const FETCH_WORDS: usize = 6;
/// Words of an op sample: address, three data registers, linear and physical data address.
const OP_WORDS: usize = 12;

/// Numbers of the registers.
pub mod msr {
    /// Fetch control.
    pub const FETCH_CONTROL: u32 = 0xc001_1030;
    /// Linear address of the fetch.
    pub const FETCH_LINEAR: u32 = 0xc001_1031;
    /// Physical address of the fetch.
    pub const FETCH_PHYSICAL: u32 = 0xc001_1032;
    /// Op control.
    pub const OP_CONTROL: u32 = 0xc001_1033;
    /// Address of the op.
    pub const OP_RIP: u32 = 0xc001_1034;
    /// Op data, first to third.
    pub const OP_DATA: [u32; 3] = [0xc001_1035, 0xc001_1036, 0xc001_1037];
    /// Linear address of the op's data.
    pub const DATA_LINEAR: u32 = 0xc001_1038;
    /// Physical address of the op's data.
    pub const DATA_PHYSICAL: u32 = 0xc001_1039;
    /// Where a branch op leads.
    pub const BRANCH_TARGET: u32 = 0xc001_103b;
}

/// Bits of the capability word (CPUID 0x8000001b EAX) that matter here. A word of 0 is a processor without.
pub mod capability {
    /// The op counter's start value can be written.
    pub const OP_COUNT_WRITABLE: u32 = 1 << 3;
    /// The op counter has 23 bits, not 16.
    pub const OP_COUNT_EXTENDED: u32 = 1 << 6;
}

/// Fetch control: largest count, in units of 16.
const FETCH_MAX_COUNT: u64 = 0xffff;
/// Fetch control: the count so far.
const FETCH_COUNT: u64 = 0xffff_0000;
/// Fetch control: sampling is on.
const FETCH_ENABLE: u64 = 1 << 48;
/// Fetch control: a sample is there.
const FETCH_VALID: u64 = 1 << 49;
/// Fetch control: the processor randomises the count.
const FETCH_RANDOM: u64 = 1 << 57;

/// Op control: sampling is on.
const OP_ENABLE: u64 = 1 << 17;
/// Op control: a sample is there.
const OP_VALID: u64 = 1 << 18;
/// Op control: dispatched ops are counted, not cycles.
const OP_COUNTS_DISPATCHED: u64 = 1 << 19;
/// Op control: low bits of the largest count, in units of 16; the others are stored 4 bits higher.
const OP_MAX_COUNT: u64 = 0xffff;
/// Largest op count with [`capability::OP_COUNT_EXTENDED`], in units of 16.
const OP_MAX_COUNT_EXTENDED: u64 = 0x7f_ffff;
/// Op counts, in units of 16, that stay in range when a signed byte is added.
const OP_COUNT_RANGE: (u64, u64) = (0x81, 0xff80);

/// Bits of randomness in a start value that can be written, where they are, and half their range in units of 16.
const START_MASK: u64 = 0xfff;
const START_SHIFT: u32 = 32;
const START_HALF_RANGE: u64 = 128;

/// Counts are written to the registers in units of 16.
const COUNT_SHIFT: u32 = 4;

/// What OProfile's files hold before anybody writes them.
const DEFAULT_MAX_COUNT: u64 = 250_000;

/// A processor's registers, reached by the sampling interrupt.
pub trait Msrs {
    /// RDMSR.
    fn read(&mut self, register: u32) -> u64;
    /// WRMSR.
    fn write(&mut self, register: u32, value: u64);
}

/// What is to be sampled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Fetch sampling is wanted.
    pub fetch_enabled: bool,
    /// Op sampling is wanted.
    pub op_enabled: bool,
    /// Fetches between two samples; [`Ibs::start`] writes back the count that is used.
    pub fetch_max_count: u64,
    /// Cycles or ops between two samples; [`Ibs::start`] writes back the count that is used.
    pub op_max_count: u64,
    /// The processor randomises the fetch count.
    pub randomize_fetch: bool,
    /// Count dispatched ops, not cycles.
    pub count_dispatched_ops: bool,
    /// Record where branches lead.
    pub branch_target: bool,
}

impl Default for Config {
    /// Nothing enabled, OProfile's counts.
    fn default() -> Self {
        Self {
            fetch_enabled: false,
            op_enabled: false,
            fetch_max_count: DEFAULT_MAX_COUNT,
            op_max_count: DEFAULT_MAX_COUNT,
            randomize_fetch: false,
            count_dispatched_ops: false,
            branch_target: false,
        }
    }
}

/// What [`Ibs::start`] made of the op settings; all 0 when they were off.
#[derive(Clone, Copy, Debug, Default)]
struct OpState {
    /// Control register before randomisation.
    control: u64,
    /// Words of a record.
    words: usize,
    branch_target: bool,
}

/// OProfile's source of randomness: a 16-bit linear-feedback shift register.
#[derive(Clone, Copy, Debug)]
struct ShiftRegister(u16);

impl ShiftRegister {
    const SEED: u16 = 0xf00d;

    const fn next(&mut self) -> u16 {
        let value = self.0;
        let bit = (value ^ value >> 2 ^ value >> 3 ^ value >> 5) & 1;
        self.0 = value >> 1 | bit << 15;
        self.0
    }
}

/// Instruction-based sampling of the processors of one machine, which share settings and randomness.
#[derive(Clone, Copy, Debug)]
pub struct Ibs {
    capabilities: u32,
    config: Config,
    op: OpState,
    random: ShiftRegister,
}

impl Ibs {
    /// Nothing is sampled yet. `capabilities`: CPUID 0x8000001b EAX, 0 without that leaf.
    #[must_use]
    pub const fn new(capabilities: u32, config: Config) -> Self {
        Self {
            capabilities,
            config,
            op: OpState {
                control: 0,
                words: 0,
                branch_target: false,
            },
            random: ShiftRegister(ShiftRegister::SEED),
        }
    }

    /// Sets what is to be sampled, and what the processor can. In force with the next [`Ibs::start`], but for what is
    /// enabled: the interrupt looks at that each time.
    pub const fn configure(&mut self, capabilities: u32, config: Config) {
        self.capabilities = capabilities;
        self.config = config;
    }

    /// What is to be sampled.
    #[must_use]
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// Clamps the counts, writes back those that are used, and arms the enabled units.
    pub fn start<M: Msrs>(&mut self, msrs: &mut M) {
        if self.capabilities == 0 {
            return;
        }
        self.op = OpState::default();
        if self.config.fetch_enabled {
            let count = (self.config.fetch_max_count >> COUNT_SHIFT).min(FETCH_MAX_COUNT);
            self.config.fetch_max_count = count << COUNT_SHIFT;
            let random = if self.config.randomize_fetch {
                FETCH_RANDOM
            } else {
                0
            };
            msrs.write(msr::FETCH_CONTROL, count | FETCH_ENABLE | random);
        }
        if self.config.op_enabled {
            let count = self.clamp_op_count();
            let counted = if self.config.count_dispatched_ops {
                OP_COUNTS_DISPATCHED
            } else {
                0
            };
            let count = (count & !OP_MAX_COUNT) << COUNT_SHIFT | count & OP_MAX_COUNT;
            self.op = OpState {
                control: count | OP_ENABLE | counted,
                words: OP_WORDS + usize::from(self.config.branch_target),
                branch_target: self.config.branch_target,
            };
            let control = self.randomized_op_control();
            msrs.write(msr::OP_CONTROL, control);
        }
    }

    /// The op count in units of 16 that leaves room for randomisation; writes back what it comes to.
    fn clamp_op_count(&mut self) -> u64 {
        let wanted = self.config.op_max_count >> COUNT_SHIFT;
        if self.capabilities & capability::OP_COUNT_WRITABLE == 0 {
            let count = wanted.clamp(OP_COUNT_RANGE.0, OP_COUNT_RANGE.1);
            self.config.op_max_count = count << COUNT_SHIFT;
            return count;
        }
        // A random start value only shortens a period, by half its range on average.
        let most = if self.capabilities & capability::OP_COUNT_EXTENDED == 0 {
            OP_MAX_COUNT
        } else {
            OP_MAX_COUNT_EXTENDED
        };
        let count = (wanted + START_HALF_RANGE).min(most);
        self.config.op_max_count = (count - START_HALF_RANGE) << COUNT_SHIFT;
        count
    }

    fn randomized_op_control(&mut self) -> u64 {
        let random = u64::from(self.random.next());
        if self.capabilities & capability::OP_COUNT_WRITABLE == 0 {
            let [offset, ..] = (random >> COUNT_SHIFT).to_le_bytes();
            self.op
                .control
                .wrapping_add_signed(i64::from(offset.cast_signed()))
        } else {
            self.op.control | (random & START_MASK) << START_SHIFT
        }
    }

    /// Disarms the enabled units.
    pub fn stop<M: Msrs>(&self, msrs: &mut M) {
        if self.capabilities == 0 {
            return;
        }
        if self.config.fetch_enabled {
            msrs.write(msr::FETCH_CONTROL, 0);
        }
        if self.config.op_enabled {
            msrs.write(msr::OP_CONTROL, 0);
        }
    }

    /// The interrupt: writes the samples that are there, and arms their units again. `interrupted` tells mode and task;
    /// address and event of a record are the processor's. A record that finds no room is counted lost by the writer.
    pub fn handle<M: Msrs, S: EntryStore>(
        &mut self,
        msrs: &mut M,
        writer: &mut Writer,
        store: &mut S,
        interrupted: &Sample,
    ) {
        if self.capabilities == 0 {
            return;
        }
        if self.config.fetch_enabled {
            let control = msrs.read(msr::FETCH_CONTROL);
            if control & FETCH_VALID != 0 {
                let pc = msrs.read(msr::FETCH_LINEAR);
                let sample = Sample { pc, ..*interrupted };
                let mut record = writer.reserve_data(store, &sample, FETCH_CODE, FETCH_WORDS);
                record.add64(pc);
                record.add64(control);
                record.add64(msrs.read(msr::FETCH_PHYSICAL));
                msrs.write(
                    msr::FETCH_CONTROL,
                    control & !(FETCH_VALID | FETCH_COUNT) | FETCH_ENABLE,
                );
            }
        }
        if self.config.op_enabled && msrs.read(msr::OP_CONTROL) & OP_VALID != 0 {
            let pc = msrs.read(msr::OP_RIP);
            let sample = Sample { pc, ..*interrupted };
            // Enabled after the start, a record has no words and refuses every value.
            let mut record = writer.reserve_data(store, &sample, OP_CODE, self.op.words);
            record.add64(pc);
            for register in msr::OP_DATA {
                record.add64(msrs.read(register));
            }
            record.add64(msrs.read(msr::DATA_LINEAR));
            record.add64(msrs.read(msr::DATA_PHYSICAL));
            if self.op.branch_target {
                record.add(msrs.read(msr::BRANCH_TARGET));
            }
            let control = self.randomized_op_control();
            msrs.write(msr::OP_CONTROL, control);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    use oprofile_wire::sample::ESCAPE;

    #[derive(Default)]
    struct Registers {
        values: BTreeMap<u32, u64>,
        written: Vec<(u32, u64)>,
    }

    impl Registers {
        fn with(values: impl IntoIterator<Item = (u32, u64)>) -> Self {
            Self {
                values: values.into_iter().collect(),
                written: Vec::new(),
            }
        }
    }

    impl Msrs for Registers {
        fn read(&mut self, register: u32) -> u64 {
            self.values.get(&register).copied().unwrap_or(0)
        }

        fn write(&mut self, register: u32, value: u64) {
            self.written.push((register, value));
        }
    }

    /// Room without end.
    #[derive(Default)]
    struct Entries(Vec<Vec<u64>>);

    impl EntryStore for Entries {
        fn reserve(&mut self, eip: u64, event: u64, data_words: usize) -> Option<&mut [u64]> {
            let mut entry = vec![eip, event];
            entry.resize(2 + data_words, 0);
            self.0.push(entry);
            self.0.last_mut().map(|entry| &mut entry[2..])
        }
    }

    /// No room at all.
    struct Full;

    impl EntryStore for Full {
        fn reserve(&mut self, _: u64, _: u64, _: usize) -> Option<&mut [u64]> {
            None
        }
    }

    const USER: Sample = Sample {
        pc: 0,
        is_kernel: false,
        event: 0,
        task: 0x2000,
    };

    const BOTH: Config = Config {
        fetch_enabled: true,
        op_enabled: true,
        fetch_max_count: 250_000,
        op_max_count: 250_000,
        randomize_fetch: false,
        count_dispatched_ops: false,
        branch_target: false,
    };

    fn started(capabilities: u32, config: Config) -> (Ibs, Vec<(u32, u64)>) {
        let mut ibs = Ibs::new(capabilities, config);
        let mut registers = Registers::default();
        ibs.start(&mut registers);
        (ibs, registers.written)
    }

    /// The records that one interrupt with both samples writes, and its register writes.
    fn interrupt(ibs: &mut Ibs) -> (Vec<Vec<u64>>, Vec<(u32, u64)>) {
        let mut registers = Registers::with(
            (0xc001_1031..=0xc001_103b)
                .map(|register| (register, u64::from(register) << 32 | 7))
                .chain([
                    (msr::FETCH_CONTROL, FETCH_VALID | 0x1234_5678),
                    (msr::OP_CONTROL, OP_VALID),
                ]),
        );
        let mut entries = Entries::default();
        ibs.handle(&mut registers, &mut Writer::new(), &mut entries, &USER);
        (entries.0, registers.written)
    }

    #[test]
    fn without_capability_everything_is_inert() {
        let (mut ibs, written) = started(0, BOTH);
        assert!(written.is_empty());
        assert_eq!(interrupt(&mut ibs), (vec![], vec![]));
        let mut registers = Registers::default();
        ibs.stop(&mut registers);
        assert!(registers.written.is_empty());
        assert_eq!(*ibs.config(), BOTH);
    }

    #[test]
    fn a_fetch_sample_holds_three_registers_and_rearms_with_its_count_cleared() {
        let config = Config {
            op_enabled: false,
            ..BOTH
        };
        let (mut ibs, _) = started(1, config);
        let (records, written) = interrupt(&mut ibs);
        assert_eq!(records[0], [ESCAPE, 9, USER.task]);
        assert_eq!(
            records[1][..4],
            [ESCAPE, 0, FETCH_CODE, 0xc001_1031 << 32 | 7]
        );
        #[rustfmt::skip]
        let values = [7, 0xc001_1031, 0x1234_5678, 1 << 17, 7, 0xc001_1032];
        assert_eq!(records[1][4..], values);
        assert_eq!(written, [(msr::FETCH_CONTROL, FETCH_ENABLE | 0x5678)]);
    }

    #[test]
    fn an_op_sample_holds_six_registers_and_the_branch_target_unsplit() {
        for branch_target in [false, true] {
            let config = Config {
                fetch_enabled: false,
                branch_target,
                ..BOTH
            };
            let (mut ibs, _) = started(1, config);
            let (records, written) = interrupt(&mut ibs);
            let registers = (0xc001_1034u64..=0xc001_1039).flat_map(|register| [7, register]);
            let target = branch_target.then_some(0xc001_103bu64 << 32 | 7);
            let expected: Vec<_> = registers.chain(target).collect();
            assert_eq!(records[1][2], OP_CODE);
            assert_eq!(records[1][4..], expected);
            assert_eq!(written.len(), 1);
        }
    }

    #[test]
    fn ops_enabled_after_the_start_give_records_without_values() {
        let (mut ibs, _) = started(
            1,
            Config {
                op_enabled: false,
                ..BOTH
            },
        );
        ibs.configure(1, BOTH);
        let (records, written) = interrupt(&mut ibs);
        assert_eq!(records[2], [ESCAPE, 0, OP_CODE, 0xc001_1034 << 32 | 7]);
        // The control word is 0 before it is randomised: 0x7806 from the seed, of which bits 4 to 11 count.
        assert_eq!(
            written[1],
            (msr::OP_CONTROL, 0u64.wrapping_add_signed(-128))
        );
    }

    #[test]
    fn stopping_disarms_what_is_enabled_only() {
        let config = Config {
            fetch_enabled: false,
            ..BOTH
        };
        let (ibs, _) = started(1, config);
        let mut registers = Registers::default();
        ibs.stop(&mut registers);
        assert_eq!(registers.written, [(msr::OP_CONTROL, 0)]);
    }

    #[test]
    fn units_without_a_sample_are_left_alone() {
        let (mut ibs, _) = started(1, BOTH);
        let (mut registers, mut entries) = (Registers::default(), Entries::default());
        ibs.handle(&mut registers, &mut Writer::new(), &mut entries, &USER);
        assert!(entries.0.is_empty() && registers.written.is_empty());
    }

    #[test]
    fn a_record_without_room_is_lost_and_its_unit_armed_again() {
        let (mut ibs, _) = started(1, BOTH);
        let mut registers = Registers::with([
            (msr::FETCH_CONTROL, FETCH_VALID),
            (msr::OP_CONTROL, OP_VALID),
        ]);
        let mut writer = Writer::new();
        ibs.handle(&mut registers, &mut writer, &mut Full, &USER);
        assert_eq!((writer.counters().received, writer.counters().lost), (2, 2));
        assert_eq!(registers.written.len(), 2);
    }

    #[test]
    fn counts_are_clamped_and_written_back() {
        let extended = capability::OP_COUNT_WRITABLE | capability::OP_COUNT_EXTENDED;
        // Capabilities, wanted count, fetch count and op count that are used.
        for (capabilities, wanted, fetch, op) in [
            (1, 250_000, 250_000, 250_000),
            (1, 0, 0, 0x810),
            (1, u64::MAX, 0xf_fff0, 0xf_f800),
            (8, 0, 0, 0),
            (8, 17, 16, 16),
            (8, u64::MAX, 0xf_fff0, 0xf_f7f0),
            (extended, u64::MAX, 0xf_fff0, 0x7ff_f7f0),
        ] {
            let config = Config {
                fetch_max_count: wanted,
                op_max_count: wanted,
                ..BOTH
            };
            let (ibs, written) = started(capabilities, config);
            let used = (ibs.config().fetch_max_count, ibs.config().op_max_count);
            assert_eq!(used, (fetch, op), "{capabilities} {wanted}");
            assert_eq!(written[0].1, FETCH_ENABLE | fetch >> 4);
        }
    }

    #[test]
    fn high_bits_of_an_extended_count_are_stored_above_the_flags() {
        let config = Config {
            op_max_count: u64::MAX,
            count_dispatched_ops: true,
            ..BOTH
        };
        let extended = capability::OP_COUNT_WRITABLE | capability::OP_COUNT_EXTENDED;
        let (_, written) = started(extended, config);
        // Bits 16 to 22 of the count at 20 to 26; 12 bits of randomness at 32.
        let control = written[1].1;
        assert_eq!(control & 0xffff_ffff, 0x7f0_ffff | 1 << 17 | 1 << 19);
        assert_eq!(control >> 32, 0x806);
    }

    #[test]
    fn randomness_is_never_stuck_and_repeats_after_its_period() {
        let mut register = ShiftRegister(ShiftRegister::SEED);
        let period = (1u32..=65_536).find(|_| register.next() == ShiftRegister::SEED);
        assert_eq!(period, Some(65_535));
    }

    proptest! {
        /// Whatever the files say, what is written to the registers is what their fields can hold.
        #[test]
        fn any_count_stays_in_its_field(
            capabilities: u32, fetch_max_count: u64, op_max_count: u64, rounds in 1usize..200)
        {
            let config = Config { fetch_max_count, op_max_count, ..BOTH };
            let (mut ibs, written) = started(capabilities | 1, config);
            prop_assert_eq!(written[0].1 & !FETCH_ENABLE & !FETCH_MAX_COUNT, 0);
            let mut controls = vec![written[1].1];
            for _ in 0..rounds {
                controls.push(interrupt(&mut ibs).1[1].1);
            }
            let extended = 0x7f << 20;
            let fields = START_MASK << START_SHIFT | extended | OP_ENABLE | OP_MAX_COUNT;
            for control in controls {
                prop_assert_eq!(control & !fields, 0);
                prop_assert!(control & OP_ENABLE != 0 && control & (extended | OP_MAX_COUNT) != 0);
            }
        }
    }
}
