//! What of a scenario cannot be laid out in RAM.

use std::collections::BTreeSet;

use oprofile_device::test_utils::USER_END;

use super::shape::RAM_BYTES;
use crate::model::{File, Op, Scenario, Vma};

/// Longest name of a directory entry, and longest path.
const MAX_NAME: usize = 255;
const MAX_PATH: usize = 4_096;

/// RAM that objects may take: what is left beside page tables, with as much again for directories that are split over slabs.
const MAX_BYTES: usize = RAM_BYTES / 2;

/// Bytes that an object takes, about: a task; an address space; a VMA with its part of a tree; a file; a directory.
const TASK_BYTES: usize = 10_000;
const MM_BYTES: usize = 1_500;
const VMA_BYTES: usize = 512;
const FILE_BYTES: usize = 1_200;
const DIRECTORY_BYTES: usize = 1_000;

/// Why `scenario` cannot be laid out; `None` when it can.
pub fn misfit(scenario: &Scenario) -> Option<&'static str> {
    let Scenario {
        files, mms, tasks, ..
    } = scenario;
    let cookies: BTreeSet<u64> = files.iter().map(|file| file.cookie).collect();
    if cookies.len() < files.len() {
        return Some(
            "two files share a cookie: one directory entry under two paths, which the device tells apart",
        );
    }
    if !files.iter().all(has_place) {
        return Some("a file's path is none that a directory tree gives");
    }
    let replaced = scenario.ops.iter().filter_map(|op| match op {
        Op::SetVmas { vmas, .. } => Some(vmas),
        _ => None,
    });
    let mut vmas = mms.iter().map(|mm| &mm.vmas).chain(replaced);
    if !vmas.clone().all(|vmas| are_mappings(vmas)) {
        return Some("mappings overlap, do not ascend, are empty, or reach into the kernel's half");
    }
    let directories = |file: &File| file.path.matches('/').count();
    let bytes = [
        tasks.len().saturating_mul(TASK_BYTES),
        mms.len().saturating_mul(MM_BYTES),
        vmas.by_ref()
            .map(Vec::len)
            .sum::<usize>()
            .saturating_mul(VMA_BYTES),
        files.len().saturating_mul(FILE_BYTES),
        files
            .iter()
            .map(directories)
            .sum::<usize>()
            .saturating_mul(DIRECTORY_BYTES),
    ];
    if bytes.into_iter().fold(0, usize::saturating_add) > MAX_BYTES {
        return Some("it needs more RAM than is laid out");
    }
    None
}

/// Whether a file can be where its path says.
fn has_place(file: &File) -> bool {
    let Some(names) = file.path.strip_prefix('/') else {
        return false;
    };
    file.path.len() <= MAX_PATH
        && names
            .split('/')
            .all(|name| (1..=MAX_NAME).contains(&name.len()))
}

/// Whether an address space can have these.
fn are_mappings(vmas: &[Vma]) -> bool {
    let mut end = 0;
    vmas.iter().all(|vma| {
        let fits = end <= vma.start && vma.start < vma.end && vma.end <= USER_END;
        end = vma.end;
        fits
    })
}
