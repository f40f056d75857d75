//! A live table of a session that is being written: what `optop` shows.
//!
//! * [`snapshot`]: a session at one moment, by function and vCPU, with the account of losses;
//! * [`watch`]: when the session has changed;
//! * [`vm`]: the account of losses as the VM itself gives it, with rates;
//! * [`state`]: what is on show and how keys change it, without clock or terminal;
//! * [`view`]: drawing it with ratatui;
//! * [`plain`]: lines and JSON for scripts and for terminals that can do nothing else.

pub mod plain;
pub mod snapshot;
pub mod state;
pub mod view;
pub mod vm;
pub mod watch;
