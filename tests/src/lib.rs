//! What whole-system tests are made of: a virtual machine to run, and the truth to measure its profile against.

pub mod account;
pub mod child;
pub mod ground_truth;
pub mod measure;
pub mod truth;
pub mod vm;
pub mod watched;
