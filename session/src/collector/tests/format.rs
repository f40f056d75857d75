//! The session against the on-disk format.

use super::*;

/// Each rule of the on-disk format that a writer has to obey, on a session with all kinds of samples.
#[test]
fn session_obeys_every_rule_of_the_format() {
    let mut s = session(CollectorOptions::default());
    for cpu in 0..3 {
        let mut words = vec![ESC, 2, cpu, ESC, 8, ESC, 5];
        words.extend(TASK);
        words.extend([
            ESC, 3, LIBRARY, 0x20, 0, ESC, 3, PROGRAM, 0x40, 0, ESC, 3, JIT, 0x7100, 0, ESC, 3,
            CLIMBER, 1, 0,
        ]);
        for key in 0..300 {
            words.extend([ESC, 8, ESC, 4, KERNEL + key * 16, 0, MODULE + key, 0]);
        }
        s.consume(&words);
        s.flush();
    }
    let current = s.dir.path().join("samples/current");
    let mut mtimes: BTreeMap<ImageName, u64> = BTreeMap::new();
    let mut files = 0;
    walk(&current, &mut |path, relative| {
        files += 1;
        let parsed =
            SamplePath::parse(path.strip_prefix(&current).unwrap().as_os_str().as_bytes()).unwrap();
        assert!(relative.starts_with("{root}/"), "{relative}");
        assert!(!relative.contains("/proc/kallsyms"));
        assert_eq!(relative.rsplit('/').next().unwrap().matches('.').count(), 5);
        assert_eq!((&*parsed.spec.count, &*parsed.spec.unit_mask), ("0", "0"));
        assert!(parsed.spec.cpu.parse::<u32>().unwrap() < 3);
        assert!(matches!(parsed.app, ImageName::Root(_)));

        let bytes = fs::read(path).unwrap();
        let word =
            |offset: usize| u32::from_ne_bytes(bytes[offset..offset + 4].try_into().unwrap());
        let long =
            |offset: usize| u64::from_ne_bytes(bytes[offset..offset + 8].try_into().unwrap());
        assert_eq!(&bytes[..4], b"DAE\n");
        assert_eq!(
            (
                word(4),
                word(8),
                word(12),
                word(16),
                word(20),
                word(24),
                word(28)
            ),
            (0x13, 4, 0, 0, 0, 0, 0)
        );
        assert_eq!((long(32), word(48), word(52)), (0, 0, 0));
        assert_eq!(
            long(56) != 0,
            matches!(parsed.image, ImageName::Anon { .. })
        );
        assert_eq!(
            long(64) != 0,
            matches!(parsed.callee, Some(ImageName::Anon { .. }))
        );
        assert_eq!(
            *mtimes.entry(parsed.image.clone()).or_insert(long(40)),
            long(40),
            "one mtime an image"
        );
        let (size, used) = (word(72), word(76));
        assert!(size.is_power_of_two() && size >= 128 && used < size && used > 1);
        assert_eq!(bytes.len(), 104 + 20 * size as usize);
        assert!(bytes[80..104].iter().all(|byte| *byte == 0));
        // Each node is in exactly one chain, and in that of its key.
        let mut seen = 0;
        for bucket in 0..size {
            let mut node = word(104 + 16 * size as usize + 4 * bucket as usize);
            while node != 0 {
                assert!(node < used);
                let at = 104 + 16 * node as usize;
                let folded = word(at) ^ word(at + 4);
                assert_eq!((folded ^ (folded >> 8)) & (size - 1), bucket);
                node = word(at + 12);
                seen += 1;
                assert!(seen < used);
            }
        }
        assert_eq!(seen, used - 1);
    });
    assert_eq!(files, 3 * 6);
    assert_eq!(
        fs::read_dir(s.dir.path().join("partial")).unwrap().count(),
        0
    );
    let abi = fs::read_to_string(s.dir.path().join("abi")).unwrap();
    assert_eq!(abi.lines().count(), 31);
    assert!(abi.lines().all(|line| line.split(' ').count() == 2));
}
