//! The virtio profiling device without a VMM.
//!
//! | module | what it does |
//! |---|---|
//! | [`sync`] | OProfile's sync pipeline: a state machine over a [`sync::World`] and the event buffer |
//! | [`event_buffer`] | escape-coded words on their way to the one reader: watershed, dump, overflow |
pub mod event_buffer;
pub mod sync;
