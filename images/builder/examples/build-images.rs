//! Builds kernel, initrd and root tree into a directory: `build-images OUT`.

use std::error::Error;
use std::process::ExitCode;

use oprofile_images::{Options, build};

fn main() -> ExitCode {
    let Some(out) = std::env::args_os().nth(1) else {
        eprintln!("Usage: build-images OUT");
        return ExitCode::from(2);
    };
    match build(&Options::new(out)) {
        Ok(images) => {
            println!("kernel {}", images.kernel.display());
            println!("initrd {}", images.initrd.display());
            println!("root   {}", images.root.display());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            let mut cause = error.source();
            while let Some(error) = cause {
                eprintln!("  because: {error}");
                cause = error.source();
            }
            ExitCode::FAILURE
        }
    }
}
