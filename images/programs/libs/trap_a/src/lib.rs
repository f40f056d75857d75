//! One of two objects that take turns at the same address: only its file tells its code from the other's.
#![cfg_attr(feature = "bare", no_std)]
#![cfg(feature = "bare")]

guest_spin::halt_on_panic!();

guest_spin::spin_fn!(
    /// The work of this object.
    trap_a
);
