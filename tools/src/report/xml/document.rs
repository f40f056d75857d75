//! What an XML report says, before it is text. The shape is that of OProfile's schema 3.1.

use crate::profile::Counts;

/// A whole report.
#[derive(Debug, Clone, Default, PartialEq)]
pub(in crate::report) struct Document {
    /// First part of OProfile's name of the processor type: `timer`, `x86-64`, …
    pub cpu_type: String,
    /// Second part, `None` for a timer.
    pub processor: Option<String>,
    /// Number of processors that are told apart, if they are.
    pub separated_cpus: Option<usize>,
    /// Clock of the profiled machine, MHz.
    pub mhz: f64,
    /// The command.
    pub title: Vec<u8>,
    /// Attributes of `options`.
    pub options: Vec<(&'static str, Vec<u8>)>,
    /// What was counted.
    pub setup: Vec<Setup>,
    /// The columns; none when there is only one, or when they are processes.
    pub classes: Vec<Class>,
    /// The programs, or their threads.
    pub programs: Vec<Program>,
    /// The symbols that are referred to, by their place in this list.
    pub symbols: Vec<SymbolData>,
    /// Whether samples within symbols and the symbols' code are listed.
    pub details: bool,
}

/// What was counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::report) enum Setup {
    /// The timer, with what the sample files say its period is.
    Timer {
        /// The period as written.
        count: String,
    },
    /// A processor's event.
    Event {
        /// Its name.
        name: String,
        /// Its unit mask as written.
        unit_mask: String,
        /// Its period as written.
        count: String,
    },
}

/// A column, told by what is its own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::report) struct Class {
    /// Place of its event in the setup.
    pub event: Option<usize>,
    /// Its unit mask.
    pub mask: Option<String>,
    /// Its processor.
    pub cpu: Option<String>,
}

/// Process and thread of a program, as far as they are told apart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::report) struct Thread {
    /// Thread group id, empty when merged.
    pub tgid: String,
    /// Thread id, empty when merged.
    pub tid: String,
}

/// A program with all that runs in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::report) struct Program {
    /// Its name.
    pub name: Vec<u8>,
    /// Process and thread, in a report on threads.
    pub thread: Option<Thread>,
    /// Its own symbols.
    pub own: Vec<Symbol>,
    /// The images below it; in a report on threads that holds the program's own too.
    pub modules: Vec<Module>,
}

/// An image below a program.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::report) struct Module {
    /// Its name.
    pub name: Vec<u8>,
    /// Its symbols.
    pub symbols: Vec<Symbol>,
}

/// A symbol of a program with its counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::report) struct Symbol {
    /// Its place in [`Document::symbols`].
    pub id: usize,
    /// Samples in it, by class.
    pub counts: Counts,
    /// First and last of its entries among the details of `id`.
    pub details: Option<(usize, usize)>,
    /// Who calls it and whom it calls, in a call graph.
    pub calls: Option<Calls>,
}

/// The neighbours of a symbol in a call graph.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::report) struct Calls {
    /// Who called it.
    pub callers: Vec<Call>,
    /// Whom it called, itself included.
    pub callees: Vec<Call>,
}

/// A neighbour of a symbol.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::report) struct Call {
    /// Its place in [`Document::symbols`].
    pub id: usize,
    /// Its image.
    pub image: Vec<u8>,
    /// Whether it stands for the symbol's own samples.
    pub is_self: bool,
    /// How often, by class.
    pub counts: Counts,
}

/// What is said once about a symbol. Those of one name in one image share it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::report) struct SymbolData {
    /// Its name, demangled as asked for.
    pub name: Vec<u8>,
    /// Address of the first of that name.
    pub address: u64,
    /// File and line, when asked for and known.
    pub line: Option<(Vec<u8>, u32)>,
    /// Samples by address.
    pub details: Vec<Detail>,
    /// Its code; empty when that is unknown.
    pub code: Vec<u8>,
}

/// Samples of one class at an address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::report) struct Detail {
    /// The address.
    pub address: u64,
    /// File and line, when asked for and known.
    pub line: Option<(Vec<u8>, u32)>,
    /// The class.
    pub class: usize,
    /// The samples.
    pub count: u64,
}
