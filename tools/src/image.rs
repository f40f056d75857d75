//! The binary behind an image's name.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use oprofile_session::sample_path::ImageName;

use crate::names::{long_name, printable};

/// The file of `image`, below `prefix` if there is one. `None` when there is no regular file.
pub fn locate(image: &ImageName, prefix: Option<&Path>) -> Option<PathBuf> {
    let path = match image {
        ImageName::Anon { .. } => return None,
        ImageName::Root(_) | ImageName::Kern(_) => below(prefix, &long_name(image)),
    };
    path.is_file().then_some(path)
}

/// The absolute `path` put below `prefix`.
pub fn below(prefix: Option<&Path>, path: &[u8]) -> PathBuf {
    match prefix {
        Some(prefix) => {
            let relative = path.strip_prefix(b"/").unwrap_or(path);
            prefix.join(OsStr::from_bytes(relative))
        }
        None => PathBuf::from(OsStr::from_bytes(path)),
    }
}

/// The warning for an image that was not found, unless nobody expects it to be a file.
pub fn missing_warning(image: &ImageName, prefix: Option<&Path>) -> Option<String> {
    let name = long_name(image);
    let never_a_file = [
        &b"anon "[..],
        b"[vdso]",
        b"[hypervisor_bucket]",
        b"/no-vmlinux",
    ];
    if never_a_file.iter().any(|start| name.starts_with(start)) {
        return None;
    }
    let shown = match image {
        ImageName::Anon { .. } => printable(&name),
        _ => printable(below(prefix, &name).as_os_str().as_bytes()),
    };
    Some(format!("warning: {shown} could not be found."))
}

/// The warning for a binary that may not be the one that was profiled.
pub fn mtime_warning(path: &Path, recorded: u64) -> Option<String> {
    let shown = printable(path.as_os_str().as_bytes());
    if recorded == 0 {
        return Some(format!(
            "warning: could not check that the binary file {shown} has not been modified since the profile was taken. Results may be inaccurate."
        ));
    }
    let modified = fs::metadata(path)
        .and_then(|metadata| metadata.modified())
        .ok()?;
    let seconds = modified
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    (seconds != recorded).then(|| {
        format!(
            "warning: the last modified time of the binary file does not match that of the sample file for {shown}\nEither this is the wrong binary or the binary has been modified since the sample file was created."
        )
    })
}
