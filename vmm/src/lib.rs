//! A small KVM virtual machine monitor that carries the profiling device.
