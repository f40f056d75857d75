//! The committed corpus, run as an ordinary test: no libFuzzer, no instrumentation.

use std::any::Any;
use std::fs;
use std::panic;
use std::path::{Path, PathBuf};

use oprofile_fuzz_targets::{TARGETS, Target};

/// The folder of a target's inputs.
fn corpus(target: &Target) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../corpus")
        .join(target.name)
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_default()
}

/// Runs every input of `target`; those that fail.
fn replay(target: &Target) -> Vec<String> {
    let folder = corpus(target);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| {
        panic!(
            "target {} has no corpus {}: {error}",
            target.name,
            folder.display()
        )
    });
    let mut inputs: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    inputs.sort();
    assert!(!inputs.is_empty(), "{} is empty", folder.display());
    let failed = |path: &PathBuf| {
        let input = fs::read(path).unwrap();
        let panic = panic::catch_unwind(|| (target.run)(&input)).err()?;
        Some(format!("{}: {}", path.display(), message(&*panic)))
    };
    inputs.iter().filter_map(failed).collect()
}

#[test]
fn every_input_of_the_corpus_passes() {
    let failed: Vec<String> = TARGETS.iter().flat_map(replay).collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn no_corpus_is_left_of_a_target_that_is_gone() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus");
    for entry in fs::read_dir(folder).unwrap() {
        let name = entry.unwrap().file_name();
        assert!(
            TARGETS.iter().any(|target| name == target.name),
            "{} is no target",
            name.display()
        );
    }
}

#[test]
fn empty_and_short_inputs_pass() {
    for target in TARGETS {
        for byte in [0, 1, 0x7f, 0xff] {
            for length in 0..64 {
                (target.run)(&vec![byte; length]);
            }
        }
    }
}
