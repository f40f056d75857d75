//! Files of a session that nobody vouches for: sample files, and their paths.

use std::collections::BTreeMap;

use arbitrary::{Arbitrary, Unstructured};
use oprofile_session::guest_path::{
    MAX_COMPONENT, MAX_PATH, MAX_REGION_NAME, escape_component, escape_path, escape_region_name,
};
use oprofile_session::sample_file::{Header, SampleFile, encode};
use oprofile_session::sample_path::{ImageName, SamplePath, SampleSpec};
use zerocopy::IntoBytes;

use crate::names::Name;

#[derive(Arbitrary, Debug)]
enum Input {
    Bytes(Vec<u8>),
    /// A good file, changed.
    File {
        header: [u32; 4],
        counts: BTreeMap<u64, u32>,
        patches: Vec<(u16, u8)>,
        /// The file is said to be so much longer or shorter than it is.
        length: i8,
        cut: u8,
    },
}

/// Runs the target `sample_file`.
///
/// # Panics
/// When it finds something.
pub fn run(data: &[u8]) {
    match Input::arbitrary_take_rest(Unstructured::new(data)) {
        Ok(Input::Bytes(bytes)) => read(&bytes, bytes.len() as u64),
        Ok(Input::File {
            header: [count, unit_mask, mtime, is_kernel],
            counts,
            patches,
            length,
            cut,
        }) => {
            let mut header = Header::timer(count, unit_mask, mtime.into());
            header.is_kernel = is_kernel;
            let list: Vec<(u64, u64)> = counts
                .iter()
                .map(|(&key, &count)| (key, count.into()))
                .collect();
            let mut bytes = encode(&header, list.iter().copied());
            let file = SampleFile::parse(&bytes[..], bytes.len() as u64).expect("it was just made");
            assert_eq!(file.header.as_bytes(), header.as_bytes());
            assert!(file.counts.into_iter().eq(list));
            for (at, byte) in patches {
                let at = usize::from(at) % bytes.len();
                bytes[at] = byte;
            }
            bytes.truncate(bytes.len() - usize::from(cut));
            let length = (bytes.len() as u64).saturating_add_signed(length.into());
            read(&bytes, length);
        }
        Err(_) => {}
    }
}

fn read(bytes: &[u8], length: u64) {
    let Ok(file) = SampleFile::parse(bytes, length) else {
        return;
    };
    // 16 bytes a key, whatever the file says.
    assert!(file.counts.len() <= bytes.len() / 16);
    let list = file.counts.iter().map(|(&key, &count)| (key, count));
    let list: Vec<(u64, u64)> = list.collect();
    let again = encode(&file.header, list.iter().copied());
    let again = SampleFile::parse(&again[..], again.len() as u64).expect("it was just made");
    let cut = |(key, count): (u64, u64)| (key, count.min(u32::MAX.into()));
    assert!(again.counts.into_iter().eq(list.into_iter().map(cut)));
    assert!(file.total() >= file.counts.values().copied().max().unwrap_or(0));
}

/// Runs the target `sample_path`: paths as they are found in a session, and names as a guest gives them.
///
/// # Panics
/// When it finds something.
pub fn run_paths(data: &[u8]) {
    if let Ok(name) = Name::arbitrary_take_rest(Unstructured::new(data)) {
        check_path(&name.bytes());
    }
}

fn check_path(data: &[u8]) {
    if let Ok(path) = SamplePath::parse(data) {
        let bytes = path.to_bytes();
        assert_eq!(
            SamplePath::parse(&bytes).as_ref(),
            Ok(&path),
            "from {bytes:?}"
        );
    }
    let escaped = escape_path(data);
    assert!(escaped.len() <= MAX_PATH && escaped.starts_with(b"/"));
    for component in escaped[1..].split(|&byte| byte == b'/') {
        check_component(component, MAX_COMPONENT);
    }
    check_component(&escape_component(data), MAX_COMPONENT);
    let region = escape_region_name(data);
    assert!(!region.contains(&b'}'));
    check_component(&region, MAX_REGION_NAME);
    // What the guest calls its files leads to one sample file, that of the names given.
    let spec = SampleSpec::parse(b"TIMER.0.0.all.all.3").expect("a good one");
    let made = SamplePath {
        app: ImageName::Root(escaped.clone()),
        image: ImageName::anon(&region, 1, 0x1000, 0x2000),
        callee: None,
        spec,
    };
    assert_eq!(SamplePath::parse(&made.to_bytes()).as_ref(), Ok(&made));
}

/// It stays in its directory and means nothing there.
fn check_component(component: &[u8], limit: usize) {
    assert!((1..=limit).contains(&component.len()), "{component:?}");
    assert!(
        component != b"." && component != b".." && component[0] != b'{',
        "{component:?}"
    );
    let is_plain = |&byte: &u8| byte >= 0x20 && byte != 0x7f && byte != b'/';
    assert!(component.iter().all(is_plain), "{component:?}");
}
