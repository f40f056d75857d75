//! The guest's half: sample-buffer writer and virtio-mmio driver, no_std.
