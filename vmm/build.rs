//! Builds the tiny guest that the program carries.

use std::error::Error;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn Error>> {
    let out_dir = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("Cargo sets no OUT_DIR")?);
    let images = oprofile_images::build(&oprofile_images::Options::new(out_dir))?;
    println!("cargo::rustc-env=GUEST_KERNEL={}", images.kernel.display());
    println!("cargo::rustc-env=GUEST_INITRD={}", images.initrd.display());
    for input in oprofile_images::inputs() {
        println!("cargo::rerun-if-changed={}", input.display());
    }
    Ok(())
}
