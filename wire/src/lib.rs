//! What the guest's driver and the host's device say to each other: layouts only, no I/O.
