//! What the programs share: rounds of work in fixed proportions until a deadline.
#![no_std]

pub mod arguments;
pub mod chain;
pub mod plan;
pub mod random;

pub use arguments::deadline;
pub use plan::{Plan, run_until};
