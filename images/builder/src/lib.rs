//! Builds the tiny guest: kernel, programs and initrd.
