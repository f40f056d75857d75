use super::*;

const LINE: &[u8] = b"1000 10 f\n";

impl PerfMaps {
    fn cookies_of(&self, tgid: u32) -> Vec<u64> {
        let known = self
            .known
            .values()
            .filter(|known| known.process.tgid == tgid);
        known.flat_map(|known| known.regions.clone()).collect()
    }
}

fn maps() -> PerfMaps {
    PerfMaps::new(Arc::default())
}

/// Ticks until the driver is told, at most so many times; after how many it was.
fn told_after(maps: &mut PerfMaps, most: u32) -> Option<u32> {
    (1..=most).find(|_| {
        maps.tick();
        maps.take_change()
    })
}

#[test]
fn a_process_is_asked_for_once_a_second_while_it_has_samples() {
    let mut maps = maps();
    assert_eq!(told_after(&mut maps, 30), None);
    maps.sampled(1, 7, 2);
    assert_eq!(told_after(&mut maps, 30), Some(1));
    assert_eq!(maps.counter.load(Ordering::Acquire), 1);
    assert_eq!(maps.ask(false), Some((7, 0)));
    assert_eq!(maps.take((7, 0), LINE, true), Ok((0, false)));
    // No sample, no question.
    assert_eq!(told_after(&mut maps, 30), None);
    maps.sampled(1, 7, 2);
    assert_eq!(told_after(&mut maps, 30), Some(1));
    assert_eq!(maps.ask(false), Some((7, 0)));
    assert_eq!(maps.take((7, 0), LINE, true), Ok((0, false)));
    maps.sampled(1, 7, 2);
    assert_eq!(maps.ask(false), None);
    assert_eq!(told_after(&mut maps, 30), Some(PAUSE));
    // A driver that does not ask is told again.
    assert_eq!(told_after(&mut maps, 30), Some(PAUSE));
}

#[test]
fn the_end_of_a_process_and_of_the_driver_leave_nothing_behind() {
    let mut maps = maps();
    maps.sampled(1, 7, 2);
    assert_eq!(maps.ask(false), Some((7, 0)));
    assert_eq!(maps.take((7, 0), LINE, true), Ok((0, false)));
    assert_eq!(maps.ask(true), None);
    maps.sampled(1, 7, 2);
    assert_eq!(maps.ask(false), None);
    assert_eq!(maps.ask(true), Some((7, 0)));
    assert_eq!(maps.take((7, 0), LINE, true), Ok((0, false)));
    maps.released(99);
    assert_eq!(told_after(&mut maps, 30), None);
    maps.released(1);
    assert_eq!(told_after(&mut maps, 30), Some(1));
}

#[test]
fn a_map_that_cannot_be_read_is_asked_for_less_and_less() {
    let mut maps = maps();
    maps.sampled(1, 7, 2);
    assert_eq!(told_after(&mut maps, 1), Some(1));
    for pause in [20, 40, 80, 160, 160] {
        assert_eq!(maps.ask(false), Some((7, 0)));
        assert_eq!(maps.cannot_be_read(8), Err(NotAsked));
        assert_eq!(maps.cannot_be_read(7), Ok(()));
        maps.sampled(1, 7, 2);
        assert_eq!(told_after(&mut maps, 999), Some(pause));
    }
    // Once it can be, it is as any other.
    assert_eq!(maps.ask(false), Some((7, 0)));
    assert_eq!(maps.take((7, 0), LINE, true), Ok((0, false)));
    maps.sampled(1, 7, 2);
    assert_eq!(told_after(&mut maps, 999), Some(PAUSE));
}

#[test]
fn only_what_was_asked_for_is_taken() {
    let mut maps = maps();
    assert_eq!(maps.take((7, 0), LINE, true), Err(NotAsked));
    maps.sampled(1, 7, 2);
    maps.sampled(2, 8, 3);
    assert_eq!(maps.take((7, 0), LINE, true), Err(NotAsked));
    assert_eq!(maps.ask(false), Some((7, 0)));
    assert_eq!(maps.take((8, 0), LINE, true), Err(NotAsked));
    assert_eq!(maps.take((7, 1), LINE, true), Err(NotAsked));
    assert_eq!(maps.take((7, 0), LINE, false), Ok((0, true)));
    assert_eq!(maps.take((7, 0), LINE, false), Err(NotAsked));
    assert_eq!(maps.take((7, 10), b"junk\n", true), Ok((1, false)));
    assert_eq!(maps.take((7, 15), LINE, true), Err(NotAsked));
    assert_eq!(maps.of_region(7, 2).unwrap().len(), 1);
    assert!(maps.of_region(8, 3).is_none());
    assert_eq!(maps.counts().functions, 1);
}

/// What process 7 answers when it is asked for: the offset from which on, and the file.
fn answer(maps: &mut PerfMaps, file: &[u8]) -> Option<u64> {
    let (tgid, offset) = maps.ask(true)?;
    let rest = file.get(usize::try_from(offset).unwrap()..);
    let rest = rest.unwrap_or_default();
    // As the driver does: the end by itself, unless the device takes no more.
    if let (_, true) = maps.take((tgid, offset), rest, false).unwrap() {
        let end = offset + rest.len() as u64;
        maps.take((tgid, end), b"", true).unwrap();
    }
    Some(offset)
}

#[test]
fn a_map_that_was_written_anew_is_read_anew_and_its_names_stay_until_then() {
    let mut maps = maps();
    let names = |maps: &PerfMaps| {
        let map = maps.of_region(7, 2).unwrap();
        let name = |piece| String::from_utf8(map.name(piece).to_vec()).unwrap();
        let names = map.pieces().into_iter().map(name);
        (map.version(), names.collect::<Vec<_>>().concat())
    };
    let line = |at: usize| format!("{at:x}0 10 {}\n", at % 10);
    let dump = |functions| (1..=functions).map(line).collect::<String>();
    maps.sampled(1, 7, 2);
    assert_eq!(answer(&mut maps, dump(30).as_bytes()), Some(0));
    let first = names(&maps);
    // Shorter, gone for a moment, longer with other functions at the same places.
    for other in ["9000 20 g\n".to_owned(), dump(99).replace(' ', "  ")] {
        maps.sampled(1, 7, 2);
        let before = names(&maps);
        let (offset, kept) = (answer(&mut maps, other.as_bytes()), maps.kept);
        assert!(offset > Some(0));
        assert_eq!((names(&maps), kept), (before.clone(), maps.kept));
        // Whoever can be asked is asked at once.
        assert_eq!(answer(&mut maps, b""), Some(0));
        assert_eq!(names(&maps), before);
        maps.sampled(1, 7, 2);
        assert_eq!(maps.ask(true), Some((7, 0)));
        assert_eq!(maps.cannot_be_read(7), Ok(()));
        assert_eq!(names(&maps), before);
        maps.sampled(1, 7, 2);
        assert_eq!(answer(&mut maps, other.as_bytes()), Some(0));
        assert_ne!(names(&maps).0, before.0);
        assert_eq!(maps.kept, maps.of_region(7, 2).unwrap().bytes());
        assert_eq!(answer(&mut maps, b""), None);
        if other.len() < 20 {
            assert_eq!(names(&maps).1, "g");
            maps.sampled(1, 7, 2);
            // Nothing has changed, and what was appended.
            assert_eq!(answer(&mut maps, other.as_bytes()), Some(0));
            maps.sampled(1, 7, 2);
            let more = other + &dump(30);
            assert_eq!(answer(&mut maps, more.as_bytes()), Some(0));
            assert_eq!(names(&maps).1, first.1.clone() + "g");
        }
    }
    assert_eq!(names(&maps).1.len(), 99);
    assert_eq!(maps.counts().maps, 1);
}

#[test]
fn a_map_that_is_written_anew_again_and_again_is_asked_for_less_and_less() {
    let mut maps = maps();
    maps.sampled(1, 7, 2);
    assert_eq!(answer(&mut maps, LINE), Some(0));
    let other = LINE.to_ascii_uppercase();
    for (file, pause) in [&other[..], LINE]
        .iter()
        .cycle()
        .zip([20, 40, 80, 160, 160])
    {
        maps.sampled(1, 7, 2);
        assert!(told_after(&mut maps, 999).is_some());
        assert_eq!(answer(&mut maps, file), Some(0));
        // At once.
        assert_eq!(answer(&mut maps, file), Some(0));
        maps.sampled(1, 7, 2);
        assert_eq!(told_after(&mut maps, 999), Some(pause));
    }
}

#[test]
fn another_process_of_the_same_number_has_a_map_of_its_own() {
    let mut maps = maps();
    maps.sampled(1, 7, 2);
    assert_eq!(maps.ask(false), Some((7, 0)));
    assert_eq!(maps.take((7, 0), LINE, true), Ok((0, false)));
    maps.sampled(9, 7, 3);
    assert!(maps.of_region(7, 3).is_none());
    assert_eq!(maps.ask(false), Some((7, 0)));
    assert_eq!(maps.take((7, 0), b"1 1 g\n2 2 h\n", true), Ok((0, false)));
    // A late sample of the one before makes nobody ask.
    maps.sampled(1, 7, 2);
    assert_eq!(maps.ask(true), None);
    assert_eq!(maps.of_region(7, 2).unwrap().len(), 1);
    assert_eq!(maps.of_region(7, 3).unwrap().len(), 2);
    maps.forget_processes();
    maps.sampled(9, 7, 3);
    assert_eq!(maps.ask(false), Some((7, 0)));
    assert_eq!(maps.of_region(7, 3).unwrap().len(), 2);
}

#[test]
fn all_regions_of_a_process_have_its_names_however_many_there_are() {
    let mut maps = maps();
    let last = MAX_REGIONS as u64 + 1;
    for cookie in 0..=last {
        maps.sampled(1, 7, cookie);
    }
    assert_eq!(maps.ask(false), Some((7, 0)));
    assert!(maps.of_region(7, last).is_none());
    assert_eq!(maps.take((7, 0), LINE, true), Ok((0, false)));
    assert_eq!(maps.of_region(7, last).unwrap().len(), 1);
    assert!(maps.of_region(8, last).is_none());
    // Also when the driver is gone.
    maps.forget_processes();
    assert_eq!(maps.of_region(7, last).unwrap().len(), 1);
    // Which of two processes had it is not known.
    maps.sampled(9, 7, 3);
    assert!(maps.of_region(7, last).is_none());
    assert_eq!(maps.of_region(7, 3).unwrap().len(), 1);
}

#[test]
fn a_process_that_was_forgotten_in_between_has_its_names_in_all_regions() {
    let mut maps = maps();
    maps.sampled(1, 7, 2);
    let mut tgid = 1_000;
    while maps.known.values().any(|known| known.process.tgid == 7) {
        tgid += 1;
        maps.tick();
        maps.sampled(1, tgid, 3);
    }
    maps.sampled(1, 7, 4);
    assert_eq!(maps.cookies_of(7), [4]);
    while maps.ask(false).is_some_and(|(tgid, _)| tgid != 7) {}
    assert_eq!(maps.take((7, 0), LINE, true), Ok((0, false)));
    assert_eq!(maps.of_region(7, 2).unwrap().len(), 1);
    assert_eq!(maps.of_region(7, 4).unwrap().len(), 1);
}

#[test]
fn maps_have_bounds_and_the_oldest_goes() {
    let mut maps = maps();
    maps.sampled(1, 1, 1);
    assert_eq!(maps.ask(false), Some((1, 0)));
    assert_eq!(maps.take((1, 0), LINE, true), Ok((0, false)));
    for tgid in 2..1_000 {
        maps.tick();
        maps.sampled(u64::from(tgid), tgid, tgid.into());
    }
    assert_eq!(maps.known.len(), MAX_MAPS);
    assert_eq!(maps.by_process.len(), MAX_MAPS);
    assert_eq!(maps.latest.len(), MAX_MAPS);
    // Those without names go first.
    assert!(maps.of_region(1, 1).is_some());
    for cookie in 0..5_000 {
        maps.sampled(999, 999, cookie);
    }
    let regions = maps.known.values().map(|known| known.regions.len());
    assert_eq!(regions.max(), Some(MAX_REGIONS));
}

#[test]
fn a_map_without_an_end_is_cut_and_not_asked_for_again() {
    let mut maps = maps();
    let text = LINE.repeat(20_000);
    maps.sampled(1, 7, 2);
    let (_, mut offset) = maps.ask(false).unwrap();
    while let Ok((0, true)) = maps.take((7, offset), &text, false) {
        offset += text.len() as u64;
    }
    assert!(offset <= super::super::MAX_TEXT_BYTES);
    assert_eq!(maps.take((7, offset), &text, false), Err(NotAsked));
    assert_eq!(maps.counts().cut, 1);
    maps.sampled(1, 7, 2);
    assert_eq!(maps.ask(true), None);
    assert_eq!(told_after(&mut maps, 300), None);
    // All of them together have a bound, too.
    for tgid in 8..100 {
        maps.tick();
        maps.sampled(1, tgid, 2);
        let (_, mut offset) = maps.ask(false).unwrap();
        while let Ok((0, true)) = maps.take((tgid, offset), &text, false) {
            offset += text.len() as u64;
        }
    }
    let kept: usize = maps.known.values().map(|known| known.map.bytes()).sum();
    assert!(kept == maps.kept && kept <= MAX_KEPT, "{kept}");
}

#[test]
fn processes_become_known_so_many_a_tick_and_the_others_in_the_next() {
    let mut maps = maps();
    for tgid in 1..1_000 {
        maps.sampled(1, tgid, 2);
    }
    assert_eq!(maps.known.len(), MAX_NEW as usize);
    let latest = |maps: &PerfMaps| maps.last_id;
    // Those that are known go on.
    maps.sampled(1, 1, 3);
    assert_eq!(maps.cookies_of(1).len(), 2);
    for tgid in 1_000..3_000 {
        let before = latest(&maps);
        maps.tick();
        for _ in 0..2 {
            for tgid in tgid..tgid + 100 {
                maps.sampled(1, tgid, 2);
            }
        }
        assert!(latest(&maps) - before <= MAX_NEW);
        let of_known = |id: &u32| maps.known.contains_key(id);
        assert!(maps.by_process.values().all(of_known));
        assert!(maps.latest.values().all(of_known));
    }
    assert_eq!(maps.by_process.len(), MAX_MAPS);
    assert_eq!(maps.latest.len(), MAX_MAPS);
}

#[test]
fn when_numbers_are_used_up_no_process_becomes_known() {
    let mut maps = maps();
    maps.last_id = u32::MAX - 1;
    for tgid in 7..10 {
        maps.sampled(1, tgid, 2);
    }
    assert_eq!((maps.known.len(), maps.by_process.len()), (1, 1));
    assert_eq!(maps.ask(true), Some((7, 0)));
}

#[test]
fn only_those_who_had_an_address_space_are_looked_at_when_it_goes() {
    let mut maps = maps();
    for (space, tgid) in [(1, 9), (2, 7), (2, 8), (3, 1)] {
        maps.sampled(space, tgid, 2);
    }
    let asked = |maps: &mut PerfMaps| {
        let mut asked: Vec<u32> = Vec::new();
        while let Some((tgid, _)) = maps.ask(true) {
            asked.push(tgid);
        }
        asked
    };
    assert_eq!(asked(&mut maps), [9, 7, 8, 1]);
    maps.released(2);
    assert_eq!(asked(&mut maps), [7, 8]);
}
