//! What a person runs on the host: opreport and its family.
//!
//! A report is made in steps, each its own module:
//!
//! * [`session`]: which sample files there are ([`spec`] says which are wanted);
//! * [`classes`]: how they are grouped into columns;
//! * [`image`] and [`symbols`]: the binary behind a name, and the functions in it;
//! * [`profile`]: counts by program, image and symbol;
//! * [`report`]: the tables.
//!
//! Beside that, what speaks with a VM that runs:
//!
//! * [`control`]: its status as text, and settings of OProfile's as the VM has them;
//! * [`event_text`]: its event stream as text.

pub mod classes;
pub mod control;
pub mod demangle;
pub mod error;
pub mod event_text;
pub mod glob;
pub mod image;
pub mod names;
pub mod profile;
pub mod report;
pub mod session;
pub mod spec;
pub mod symbols;
