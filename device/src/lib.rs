//! The virtio profiling device without a VMM: virtqueues, sync pipeline, guest-memory walk, event buffer.
