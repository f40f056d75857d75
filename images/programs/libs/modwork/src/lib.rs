//! A kernel module: position-independent code without relocations and data. Its functions are known by their index in
//! address order, which is their order here.
#![cfg_attr(feature = "bare", no_std)]
#![cfg(feature = "bare")]

guest_spin::halt_on_panic!();

guest_spin::spin_fn!(
    /// Function 0.
    mod_hot
);

guest_spin::spin_fn!(
    /// Function 1.
    mod_cool
);
