//! Link arguments of the freestanding kernel; nothing for a host build of the library half.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=kernel.ld");
    println!("cargo::rerun-if-changed=src/bare/arch/boot.s");
    println!("cargo::rerun-if-changed=src/bare/arch/entry.s");
    if std::env::var_os("CARGO_FEATURE_BARE").is_none() {
        return;
    }
    let directory = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    for argument in [
        "-nostartfiles",
        "-nostdlib",
        "-static",
        "-no-pie",
        "-Wl,-z,max-page-size=4096",
        "-Wl,-z,norelro",
        "-Wl,--build-id=none",
    ] {
        println!("cargo::rustc-link-arg-bins={argument}");
    }
    println!("cargo::rustc-link-arg-bins=-Wl,-T,{directory}/kernel.ld");
}
