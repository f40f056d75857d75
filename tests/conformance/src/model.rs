//! Scenario files as they are on disk; `vectors/README.md` says what the fields mean.
//!
//! Numbers are `u64` from the text on: none of them passes through a float.

use serde::Deserialize;
use serde_json::Value;

/// Version of the format.
pub const SCHEMA: u64 = 1;

/// What is read of every file, before it is known whether its schema is.
#[derive(Debug, Deserialize)]
pub struct Head {
    pub schema: u64,
    #[expect(
        dead_code,
        reason = "all families run alike; one that is not known is no scenario"
    )]
    pub family: Family,
}

/// Which part of OProfile a scenario exercises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    Raw,
    Writer,
    Inject,
    Lifecycle,
    X86bt,
    Ibs,
}

#[derive(Debug, Deserialize)]
pub struct Scenario {
    pub config: Config,
    pub files: Vec<File>,
    pub mms: Vec<Mm>,
    pub tasks: Vec<Task>,
    pub ops: Vec<Op>,
    pub expected: Expected,
}

#[derive(Debug, Deserialize)]
pub struct Config {
    /// Number of possible CPUs.
    pub cpus: u16,
    pub online: Vec<u16>,
    /// Words.
    pub buffer_size: Option<u64>,
    /// Words.
    pub buffer_watershed: Option<u64>,
    /// Entries.
    pub cpu_buffer_size: Option<u64>,
    pub backtrace_depth: u64,
    /// Open and started before the first operation.
    pub auto_start: bool,
}

#[derive(Clone, Debug, Deserialize)]
pub struct File {
    /// Stands for the directory entry; files with the same are one.
    pub cookie: u64,
    pub path: String,
    #[serde(default)]
    pub deleted: bool,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Mm {
    pub id: u64,
    pub exe: Option<usize>,
    pub vmas: Vec<Vma>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Vma {
    pub start: u64,
    pub end: u64,
    pub pgoff: u64,
    pub file: Option<usize>,
    pub exec: bool,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Task {
    pub id: u64,
    pub pid: u32,
    pub tgid: u32,
    pub mm: Option<u64>,
    #[serde(default)]
    pub kthread: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ModuleState {
    Live,
    Coming,
    Going,
    Unformed,
}

/// A value of a data sample, `["word", v]` or `["u64", v]` on disk.
#[derive(Clone, Debug, Deserialize)]
pub struct Add(pub AddKind, pub u64);

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AddKind {
    Word,
    U64,
}

/// What a `hook` operation changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hook {
    Setup,
    Start,
    SwitchEvents,
    SyncStart,
    SyncStop,
    /// 0 removes the walker.
    Backtrace,
    /// Whether the caller is an administrator.
    Capable,
}

/// A writer operation that arrives while a sync runs.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Injection {
    /// −1: between the reset of the writer's state and the count of entries; else before the entry with this index.
    pub at: i64,
    #[serde(rename = "do")]
    pub op: Op,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum Op {
    Entries {
        cpu: u16,
        entries: Vec<Vec<u64>>,
    },
    Sync {
        cpu: u16,
        #[serde(default)]
        inject: Vec<Injection>,
    },
    TaskExit {
        cpu: u16,
        task: u64,
    },
    Munmap {
        cpu: u16,
        task: u64,
        addr: u64,
    },
    Module {
        state: ModuleState,
    },
    TaskFree {
        task: u64,
    },
    PutBuff {
        buf: Vec<u64>,
        start: usize,
        stop: usize,
        max: usize,
    },
    Dump {},
    Read {
        count: Option<u64>,
        #[serde(default)]
        offset: u64,
    },

    SetTaskMm {
        task: u64,
        mm: Option<u64>,
    },
    SetKthread {
        task: u64,
        kthread: bool,
    },
    SetTaskIds {
        task: u64,
        pid: u32,
        tgid: u32,
    },
    SetExe {
        mm: u64,
        file: Option<usize>,
    },
    SetVmas {
        mm: u64,
        vmas: Vec<Vma>,
    },
    SetOnline {
        cpus: Vec<u16>,
    },
    MarkDeleted {
        file: usize,
    },

    Sample {
        cpu: u16,
        task: u64,
        user: bool,
        pc: u64,
        event: u64,
        #[serde(default)]
        trace: Vec<u64>,
    },
    SampleNullRegs {
        cpu: u16,
        #[expect(
            dead_code,
            reason = "without registers nothing is written that would tell it"
        )]
        task: u64,
        #[expect(
            dead_code,
            reason = "without registers nothing is written that would tell it"
        )]
        event: u64,
    },
    ExtSample {
        cpu: u16,
        task: u64,
        pc: u64,
        event: u64,
        is_kernel: bool,
        #[serde(default)]
        trace: Vec<u64>,
    },
    HwSample {
        cpu: u16,
        task: u64,
        pc: u64,
        event: u64,
        is_kernel: bool,
        sample_task: Option<u64>,
        #[serde(default)]
        trace: Vec<u64>,
    },
    AddPc {
        cpu: u16,
        task: u64,
        pc: u64,
        is_kernel: bool,
        event: u64,
    },
    AddTrace {
        cpu: u16,
        pc: u64,
    },
    IncLost {
        cpu: u16,
    },
    DataSample {
        cpu: u16,
        task: u64,
        user: bool,
        pc: u64,
        code: u64,
        size: usize,
        adds: Vec<Add>,
    },
    DumpRing {
        cpu: u16,
    },

    Open {},
    Close {},
    Start {},
    Stop {},
    Tick {
        jiffies: u64,
    },
    FsList {},
    FsRead {
        path: String,
        count: Option<u64>,
        #[serde(default)]
        offset: u64,
    },
    FsWrite {
        path: String,
        text: String,
        #[serde(default)]
        offset: u64,
    },
    Lookup {
        cookie: u64,
        len: u64,
    },
    Hook {
        name: Hook,
        value: i32,
    },

    X86Sample(X86Sample),

    IbsSetup(IbsSetup),
    IbsStart {},
    IbsStop {},
    IbsNmi(IbsNmi),
}

/// A sample whose call chain is walked on an x86 stack.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct X86Sample {
    pub cpu: u16,
    pub task: u64,
    pub user: bool,
    pub ip: u64,
    pub bp: u64,
    pub event: u64,
    pub ia32: bool,
    /// What is readable, each `[address, word…]`.
    pub memory: Vec<Vec<u64>>,
    /// What the kernel's stack dumper reports.
    pub kernel_trace: Vec<u64>,
}

/// Settings of AMD's instruction-based sampling.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IbsSetup {
    pub caps: u32,
    pub fetch_enable: u64,
    pub op_enable: u64,
    pub max_cnt_fetch: u64,
    pub max_cnt_op: u64,
    pub rand_enable: u64,
    pub dispatched_ops: u64,
    pub branch_target: u64,
}

/// An interrupt of AMD's instruction-based sampling.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IbsNmi {
    pub cpu: u16,
    pub task: u64,
    pub user: bool,
    /// Each `[number, value]`; others are 0.
    pub msrs: Vec<(u32, u64)>,
}

/// What the original did. Kept as it is: absent keys must be absent.
#[derive(Debug, Deserialize)]
pub struct Expected {
    pub results: Vec<Value>,
    #[serde(rename = "final")]
    pub end: Value,
}
