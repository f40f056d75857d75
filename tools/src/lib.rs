//! What a person runs on the host: opreport and its family.
//!
//! A report is made in steps, each its own module:
//!
//! * [`session`]: which sample files there are ([`spec`] says which are wanted);
//! * [`classes`]: how they are grouped into columns;
//! * [`image`] and [`symbols`]: the binary behind a name, and the functions in it ([`builds`] says which build it must be);
//! * [`profile`] and [`samples`]: which images there are, and one image's samples by program and symbol;
//! * [`lines`]: source lines, when they are asked for;
//! * [`rows`]: one row a symbol;
//! * [`options`]: what a report is to show;
//! * [`report`]: the tables; [`export`]: files for other viewers; [`top`]: a table that is kept up to date;
//! * [`annotate`]: source and assembly with counts beside them;
//! * [`gmon`]: the file that gprof reads;
//! * [`progress`]: how far the reading has got.
//!
//! Sessions move between machines by [`archive`] and [`import`]; [`cli`] holds the command lines.
//!
//! Beside that, what speaks with a VM that runs:
//!
//! * [`looks`]: its status, again and again;
//! * [`control`]: its status as text, and settings of OProfile's as the VM has them;
//! * [`event_text`]: its event stream as text.

pub mod annotate;
pub mod archive;
pub mod atomic_file;
pub mod builds;
pub mod classes;
pub mod cli;
pub mod control;
pub mod cpu_types;
pub mod demangle;
pub mod error;
pub mod event_files;
pub mod event_text;
pub mod export;
pub mod glob;
pub mod gmon;
pub mod image;
pub mod import;
pub mod lines;
pub mod looks;
pub mod names;
pub mod options;
pub mod profile;
pub mod progress;
pub mod report;
pub mod rows;
pub mod samples;
pub mod session;
mod shown_names;
pub mod spec;
pub mod symbols;
pub mod top;
