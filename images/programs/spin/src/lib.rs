//! The one loop in which every function of known truth spends its time.
//!
//! All functions run the same instructions, aligned alike, so a share of iterations is a share of time on any
//! processor, emulated or not.
#![no_std]

/// The loop as an assembler template: counts `rdi` down to 0, changes `rax` and `rdx`. `rdi` must not be 0.
///
/// The alignment keeps the loop inside one cache line and one page wherever the function lands.
#[macro_export]
macro_rules! template {
    () => {
        concat!(
            ".p2align 6\n",
            "2:\n",
            "imul rax, rax, 0x6c078965\n",
            "add rax, rdi\n",
            "xor rdx, rax\n",
            "ror rdx, 9\n",
            "dec rdi\n",
            "jnz 2b",
        )
    };
}

/// Defines a function `extern "C" fn(iterations: u64) -> u64` of that very name in the symbol table, which runs the
/// loop `iterations` times and gives back what the loop computed, less one bit: a system call that hands it on has
/// negative numbers for errors.
#[macro_export]
macro_rules! spin_fn {
    ($(#[$attribute:meta])* $name:ident) => {
        $(#[$attribute])*
        #[unsafe(no_mangle)]
        #[inline(never)]
        pub extern "C" fn $name(iterations: u64) -> u64 {
            if iterations == 0 {
                return 0;
            }
            let result: u64;
            // SAFETY: the loop touches the registers named here and the flags, no memory; it ends because `rdi`
            // starts above 0.
            unsafe {
                ::core::arch::asm!(
                    // The comment keeps the compiler from merging functions that do the same.
                    concat!("# ", stringify!($name)),
                    $crate::template!(),
                    inout("rdi") iterations => _,
                    inout("rax") 1_u64 => _,
                    inout("rdx") 0_u64 => result,
                    options(nomem, nostack),
                );
            }
            result >> 1
        }
    };
}

/// The panic handler of an object that has nobody to tell: it stops there.
#[macro_export]
macro_rules! halt_on_panic {
    () => {
        #[panic_handler]
        fn panic(_: &::core::panic::PanicInfo<'_>) -> ! {
            loop {
                ::core::hint::spin_loop();
            }
        }
    };
}

#[cfg(test)]
mod tests {
    spin_fn!(some_work);
    spin_fn!(other_work);

    fn by_hand(iterations: u64) -> u64 {
        let (mut a, mut x) = (1_u64, 0_u64);
        for n in (1..=iterations).rev() {
            a = a.wrapping_mul(0x6c07_8965).wrapping_add(n);
            x = (x ^ a).rotate_right(9);
        }
        x >> 1
    }

    #[test]
    fn loop_runs_as_often_as_asked() {
        for iterations in [0, 1, 2, 1_000] {
            assert_eq!(some_work(iterations), by_hand(iterations));
        }
    }

    #[test]
    fn functions_of_the_macro_do_the_same() {
        assert_eq!(some_work(77), other_work(77));
    }
}
