//! How a name chosen by the guest becomes a path on the host. This is the only place that decides it.
//!
//! A guest path is written below a directory of the host, so it must neither leave that directory nor look like
//! anything that has a meaning in a session. It is escaped percent style, one component at a time:
//!
//! | in the guest's name | on the host |
//! |---|---|
//! | empty component (`//`) | dropped |
//! | `.` and `..` | `%2E`, `%2E%2E` |
//! | `%`, control bytes, NUL, DEL | `%` and two hexadecimal digits |
//! | a first `{` (`{dep}`, `{root}`, …) | `%7B` |
//! | a component that reads as a sample file's name (`EVENT.0.0.all.all.0`) | its first dot as `%2E` |
//! | `/var/lib/oprofile/…` (there lies the session itself) | `/var/lib/%6Fprofile/…` |
//! | component longer than [`MAX_COMPONENT`] after this | cut, with `%~` and a hash of the whole behind |
//! | path longer than [`MAX_PATH`] after this | `/%~HASH/LAST-COMPONENT` |
//!
//! Different names stay different (but for a collision of the 64-bit hash), other bytes are kept as they are.

use std::fmt::Write as _;

use crate::sample_path::SampleSpec;

/// Longest component in bytes; what Linux file systems take (NAME_MAX).
pub const MAX_COMPONENT: usize = 255;
/// Longest name of an anonymous region in bytes; with `{anon:}` around it, it has to be one component.
pub const MAX_REGION_NAME: usize = 200;
/// Longest escaped path in bytes. Three names and the session directory have to fit into the host's PATH_MAX of 4096.
pub const MAX_PATH: usize = 1000;

/// The escaped form of an absolute guest path. Begins with `/`, has at least one component, no trailing `/`.
pub fn escape_path(path: &[u8]) -> Vec<u8> {
    let mut escaped = Vec::with_capacity(path.len() + 1);
    for component in path
        .split(|byte| *byte == b'/')
        .filter(|component| !component.is_empty())
    {
        escaped.push(b'/');
        let reserved = escaped == b"/var/lib/" && component == b"oprofile";
        if reserved {
            escaped.extend_from_slice(b"%6Fprofile");
        } else {
            escaped.extend_from_slice(&escape_component(component));
        }
    }
    if escaped.is_empty() {
        escaped.extend_from_slice(b"/%2F");
    }
    if escaped.len() > MAX_PATH {
        let last = escaped.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
        let mut short = format!("/%~{:016x}", fnv1a(path)).into_bytes();
        short.extend_from_slice(&escaped[last..]);
        return short;
    }
    escaped
}

/// The escaped form of one component; a `/` in it is escaped as well.
pub fn escape_component(component: &[u8]) -> Vec<u8> {
    let mut escaped = String::new();
    let mut bytes = Vec::with_capacity(component.len());
    let only_dots = matches!(component, b"." | b"..");
    let mut escape_dot = reads_as_sample_file(component);
    for (index, byte) in component.iter().enumerate() {
        let special = match byte {
            b'%' | b'/' | 0x7f | 0..=0x1f => true,
            b'{' => index == 0,
            b'.' if only_dots => true,
            b'.' if escape_dot => {
                escape_dot = false;
                true
            }
            _ => false,
        };
        if special {
            escaped.clear();
            let _ = write!(escaped, "%{byte:02X}");
            bytes.extend_from_slice(escaped.as_bytes());
        } else {
            bytes.push(*byte);
        }
    }
    if bytes.is_empty() {
        bytes.extend_from_slice(b"%");
    }
    if bytes.len() > MAX_COMPONENT {
        let hash = format!("%~{:016x}", fnv1a(component));
        bytes.truncate(MAX_COMPONENT - hash.len());
        bytes.extend_from_slice(hash.as_bytes());
    }
    bytes
}

/// Another form of an escaped path, for a name whose own form is taken by a different one. No name is escaped like this, and
/// the form of such a form is another one again.
pub fn escape_again(escaped: &[u8]) -> Vec<u8> {
    const MARK: &[u8] = b"%~";
    let start = escaped
        .iter()
        .rposition(|byte| *byte == b'/')
        .map_or(0, |slash| slash + 1);
    let (directory, component) = escaped.split_at(start);
    if component.len() + MARK.len() <= MAX_COMPONENT {
        return [escaped, MARK].concat();
    }
    let hash = format!("%~{:016x}", fnv1a(component));
    let kept = &component[..MAX_COMPONENT - hash.len() - MARK.len()];
    [directory, kept, hash.as_bytes(), MARK].concat()
}

/// The escaped name of an anonymous region, for use in `{anon:NAME}`.
pub fn escape_region_name(name: &[u8]) -> Vec<u8> {
    let mut escaped = escape_component(name);
    while let Some(index) = escaped.iter().position(|byte| *byte == b'}') {
        escaped.splice(index..=index, *b"%7D");
    }
    if escaped.len() > MAX_REGION_NAME {
        let hash = format!("%~{:016x}", fnv1a(name));
        escaped.truncate(MAX_REGION_NAME - hash.len());
        escaped.extend_from_slice(hash.as_bytes());
    }
    escaped
}

/// Whether a directory of this name could be taken for a sample file that the collector writes.
fn reads_as_sample_file(component: &[u8]) -> bool {
    let numeric =
        |part: &&String| part.as_str() == "all" || part.bytes().all(|byte| byte.is_ascii_digit());
    SampleSpec::parse(component).is_some_and(|spec| {
        [
            &spec.count,
            &spec.unit_mask,
            &spec.tgid,
            &spec.tid,
            &spec.cpu,
        ]
        .iter()
        .all(numeric)
    })
}

/// Hash of a name that is too long to be kept (FNV-1a).
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn escaped(path: &[u8]) -> String {
        String::from_utf8(escape_path(path)).unwrap()
    }

    #[test]
    fn ordinary_path_is_kept() {
        assert_eq!(
            escaped(b"/usr/lib/libfoo.so.1.2.3.4"),
            "/usr/lib/libfoo.so.1.2.3.4"
        );
        assert_eq!(
            escape_path("/opt/日本, a:b@c (deleted)".as_bytes()),
            "/opt/日本, a:b@c (deleted)".as_bytes()
        );
    }

    #[test]
    fn parent_and_empty_components_cannot_climb() {
        assert_eq!(
            escaped(b"/../..//./etc/passwd"),
            "/%2E%2E/%2E%2E/%2E/etc/passwd"
        );
        assert_eq!(escaped(b"relative"), "/relative");
        assert_eq!(escaped(b"/"), "/%2F");
        assert_eq!(escaped(b""), "/%2F");
    }

    #[test]
    fn reserved_names_lose_their_meaning() {
        assert_eq!(escaped(b"/{dep}/{root}/x{y}"), "/%7Bdep}/%7Broot}/x{y}");
        assert_eq!(
            escaped(b"/bin/TIMER.0.0.all.all.3"),
            "/bin/TIMER%2E0.0.all.all.3"
        );
        assert_eq!(
            escaped(b"/var/lib/oprofile/samples"),
            "/var/lib/%6Fprofile/samples"
        );
        assert_eq!(escaped(b"//var/lib//oprofile"), "/var/lib/%6Fprofile");
        assert_eq!(escaped(b"/srv/var/lib/oprofile"), "/srv/var/lib/oprofile");
        assert_eq!(escaped(b"/a\0b\n%41"), "/a%00b%0A%2541");
    }

    #[test]
    fn long_names_are_cut_but_stay_different() {
        let a = escape_path(&[&b"/"[..], &[b'a'; 300]].concat());
        let b = escape_path(&[&b"/"[..], &[b'a'; 301]].concat());
        assert_eq!(a.len(), 1 + MAX_COMPONENT);
        assert_ne!(a, b);
        let deep = escape_path(&b"/abcdefgh".repeat(600));
        assert!(deep.len() <= MAX_PATH && deep.ends_with(b"/abcdefgh"));
        assert_ne!(deep, escape_path(&b"/abcdefgh".repeat(601)));
    }

    #[test]
    fn other_forms_stay_within_their_limit_and_differ_from_each_other_and_all_names() {
        for name in [&b"/a/b"[..], &[b'n'; 300], &[b'%'; 84], b""] {
            let mut forms = vec![escape_path(name)];
            for _ in 0..200 {
                let form = escape_again(&forms[forms.len() - 1]);
                assert!(form.ends_with(b"%~") && !forms.contains(&form));
                let component = form.rsplit(|byte| *byte == b'/').next().unwrap();
                assert!(component.len() <= MAX_COMPONENT);
                assert_ne!(escape_path(&form), form);
                forms.push(form);
            }
        }
    }

    #[test]
    fn region_name_stays_within_its_braces() {
        assert_eq!(escape_region_name(b"[heap]"), b"[heap]");
        assert_eq!(escape_region_name(b"a}/{dep}/b"), b"a%7D%2F{dep%7D%2Fb");
        assert_eq!(escape_region_name(&[b'}'; 250]).len(), MAX_REGION_NAME);
    }

    proptest! {
        #[test]
        fn no_path_leaves_its_directory(path in prop::collection::vec(prop_oneof![any::<u8>(), Just(b'/'), Just(b'.'), Just(b'{'), Just(0)], 0..1500)) {
            let escaped = escape_path(&path);
            prop_assert!(escaped.starts_with(b"/") && escaped.len() <= MAX_PATH);
            for component in escaped[1..].split(|byte| *byte == b'/') {
                prop_assert!(!component.is_empty() && component.len() <= MAX_COMPONENT);
                prop_assert!(component != b"." && component != b"..");
                prop_assert_ne!(component[0], b'{');
                prop_assert!(component.iter().all(|byte| *byte >= 0x20 && *byte != 0x7f));
                prop_assert!(!reads_as_sample_file(component));
            }
        }

        #[test]
        fn different_names_stay_different(a in "[a%2E./{}]{1,8}", b in "[a%2E./{}]{1,8}") {
            let parts = |path: &str| path.split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect::<Vec<_>>();
            if parts(&a) != parts(&b) {
                prop_assert_ne!(escape_path(a.as_bytes()), escape_path(b.as_bytes()));
            }
        }
    }
}
