//! Link arguments of a shared object for the guest; nothing for a host build.

fn main() {
    println!("cargo::rerun-if-changed=../link.rs");
    println!("cargo::rerun-if-changed=../library.ld");
    if std::env::var_os("CARGO_FEATURE_BARE").is_none() {
        return;
    }
    let directory = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    for argument in [
        "-nostartfiles",
        "-nostdlib",
        "-Wl,-z,max-page-size=4096",
        "-Wl,-z,norelro",
        "-Wl,--hash-style=sysv",
        "-Wl,--build-id=none",
        "-Wl,--orphan-handling=place",
    ] {
        println!("cargo::rustc-link-arg-cdylib={argument}");
    }
    println!("cargo::rustc-link-arg-cdylib=-Wl,-T,{directory}/../library.ld");
}
