//! From the sample files of one binary to a profile for gprof.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use oprofile_session::sample_file::read_sorted;

use super::{Layout, Profile};
use crate::error::ToolError;
use crate::profile::{AppSamples, ImageSymbols, Selection};
use crate::report::reaches;

/// The profile of a binary.
#[derive(Debug)]
pub struct Collected {
    /// Samples and calls.
    pub profile: Profile,
    /// How the binary writes numbers.
    pub layout: Layout,
    /// The binary, as found or else as recorded.
    pub path: PathBuf,
    /// What the user ought to know about the binary.
    pub warning: Option<String>,
}

/// Reads the one binary of a selection; `None` when it is not one, or has more than one class.
///
/// Symbols below `threshold` percent are left out, but the histogram is as wide as with them.
pub fn collect(selection: &Selection, threshold: f64) -> Result<Option<Collected>, ToolError> {
    let [image] = (0..selection.images.len())
        .filter(|image| !selection.files_of(*image).is_empty())
        .collect::<Vec<_>>()[..]
    else {
        return Ok(None);
    };
    if selection.classes.len() != 1 {
        return Ok(None);
    }
    let files = selection.files.len() + selection.arcs.len();
    selection.progress.expect(files);
    let read = selection.read_image(image)?;
    let mut profile = Profile::default();
    for app in &read.apps {
        add_samples(&mut profile, &read.symbols, app, threshold);
    }
    add_arcs(&mut profile, selection, &read.symbols)?;
    let path = selection.path(image);
    Ok(Some(Collected {
        profile,
        layout: layout(&path),
        path,
        warning: read.symbols.warning,
    }))
}

fn add_samples(profile: &mut Profile, image: &ImageSymbols, app: &AppSamples, threshold: f64) {
    let mut total = vec![0u64; 1];
    for symbol in &app.symbols {
        for (sum, count) in total.iter_mut().zip(&symbol.counts) {
            *sum = sum.saturating_add(*count);
        }
    }
    for samples in &app.symbols {
        let shown = reaches(&samples.counts, &total, threshold);
        let symbol = image.symbol(samples.symbol);
        for sample in samples.samples.clone() {
            let Some(position) = app.counts.positions.get(sample) else {
                continue;
            };
            let count = app.counts.counts(sample).first().copied().unwrap_or(0);
            let address = image.address(symbol, *position);
            profile.sample(address, if shown { count } else { 0 });
        }
    }
}

/// Adds the calls from the binary to itself; gprof knows no other.
fn add_arcs(
    profile: &mut Profile,
    selection: &Selection,
    image: &ImageSymbols,
) -> Result<(), ToolError> {
    let address = |position: u64| match &image.table {
        Some(table) => match table.find(position) {
            Some((_, symbol)) => table.address_in(symbol, position),
            None => table.address(position),
        },
        None => position,
    };
    for file in &selection.arcs {
        selection.progress.advance(1);
        if file.name.callee.as_ref() != Some(&file.name.image) || file.name.app != file.name.image {
            continue;
        }
        let (header, counts) =
            read_sorted(&file.path).map_err(|source| ToolError::sample_file(&file.path, source))?;
        let from_base = image.base(header.is_kernel, header.anon_start);
        let to_base = image.base(header.cg_to_is_kernel, header.cg_to_anon_start);
        for (key, count) in counts {
            let from = address((key >> 32).wrapping_add(from_base));
            let to = address((key & u64::from(u32::MAX)).wrapping_add(to_base));
            profile.arc(from, to, count);
        }
    }
    Ok(())
}

/// The layout that the ELF header at `path` names; this machine's when there is none.
fn layout(path: &Path) -> Layout {
    let mut ident = [0; 6];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut ident));
    match (read, ident) {
        (Ok(()), [0x7f, b'E', b'L', b'F', class, data]) => Layout {
            wide: class != object::elf::ELFCLASS32.0,
            big_endian: data == object::elf::ELFDATA2MSB.0,
        },
        _ => Layout {
            wide: true,
            big_endian: cfg!(target_endian = "big"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout_is_that_of_the_binary() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (bytes, wide, big_endian) in [
            (&b"\x7fELF\x01\x02"[..], false, true),
            (b"\x7fELF\x02\x01", true, false),
            (b"\x7fELF\x01", true, cfg!(target_endian = "big")),
        ] {
            std::fs::write(file.path(), bytes).unwrap();
            assert_eq!(layout(file.path()), Layout { wide, big_endian });
        }
    }
}
