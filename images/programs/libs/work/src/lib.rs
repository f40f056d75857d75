//! The shared library of the tiny guest: functions of known truth.
#![cfg_attr(feature = "bare", no_std)]
#![cfg(feature = "bare")]

guest_spin::halt_on_panic!();

/// Constants that the library carries for its users; they also keep its text off the file's first pages.
#[unsafe(no_mangle)]
pub static LIB_TABLE: [u32; 4096] = {
    let mut table = [0; 4096];
    let mut index = 0;
    let mut value = 1_u32;
    while index < table.len() {
        value = value.wrapping_mul(0x6c07_8965).wrapping_add(1);
        table[index] = value;
        index += 1;
    }
    table
};

guest_spin::spin_fn!(
    /// Called by both users of the library.
    lib_mix
);

guest_spin::spin_fn!(
    /// Called by one of them only.
    lib_fold
);
