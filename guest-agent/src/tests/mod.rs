//! The driver against a scripted device.

mod bring_up;
mod fake;
mod flush;
mod nmi;
mod requests;
mod rings;
mod sampling;
