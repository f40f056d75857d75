//! One of two objects that take turns at the same address: only its file tells its code from the other's.
#![cfg_attr(feature = "bare", no_std)]
#![cfg(feature = "bare")]

guest_spin::halt_on_panic!();

guest_spin::spin_fn!(
    /// The work of this object.
    trap_a
);

guest_spin::spin_fn!(
    /// Never called: it lies where the other object has its work, so a sample of that one that is taken for this file's
    /// shows under this name. The linker script orders functions by name.
    trap_b_place
);
