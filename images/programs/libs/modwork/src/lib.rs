//! A kernel module: position-independent code without relocations and data. The kernel knows its functions by their
//! index in address order, which the linker script makes the order of their names.
#![cfg_attr(feature = "bare", no_std)]
#![cfg(feature = "bare")]

guest_spin::halt_on_panic!();

guest_spin::spin_fn!(
    /// Function 0.
    mod_cool
);

guest_spin::spin_fn!(
    /// Function 1.
    mod_hot
);
