//! What anybody would write: a loop over addr2line, one address at a time.

use std::collections::HashMap;

use addr2line::Loader;

use super::library::address;
use super::session::{LIBRARIES, Session, TREES, library_path};
use crate::jobs::Failure;

/// Of so many libraries one is looked at. The rest would take as long.
pub const PART: u8 = 10;

/// Sums by library and function, of every [`PART`]th library of a tree.
pub type Sums = HashMap<(usize, String), u64>;

/// Looks symbols up, or functions and lines when the tree has debug information.
///
/// # Errors
/// When the crate cannot read a library.
pub fn sums(session: &Session, tree: usize) -> Result<Sums, Failure> {
    let (_, with_debug_info, name) = TREES[tree];
    let mut sums = Sums::new();
    for library in (0..LIBRARIES).step_by(PART.into()) {
        let path = session.directory.join(name);
        let path = path.join(library_path(library).trim_start_matches('/'));
        let loader = Loader::new(path).map_err(|error| error.to_string())?;
        for (offset, count) in &session.samples[library] {
            let address = address(*offset);
            let name = if with_debug_info {
                let mut frames = loader.find_frames(address)?;
                let frame = frames.next()?;
                let function = frame.and_then(|frame| frame.function);
                function.map(|function| function.raw_name().map(std::borrow::Cow::into_owned))
            } else {
                loader.find_symbol(address).map(|name| Ok(name.to_owned()))
            };
            let name = name.transpose()?.unwrap_or_default();
            *sums.entry((library, name)).or_default() += count;
        }
    }
    Ok(sums)
}
