use super::*;
use crate::guest::vma::{Found, Vma};

fn key(number: u32) -> Key {
    Key {
        space: 0xffff_9000_0000_0000 + u64::from(number) * 1_024,
        tgid: number,
    }
}

/// As where no change words are kept.
fn enter(tables: &mut Tables, key: Key) -> Place {
    tables.enter(key, || None).0
}

fn fill(tables: &mut Tables, place: Place, regions: u64) {
    tables.change(place, |table| {
        for number in 0..regions {
            let vma = Vma {
                pointer: number,
                start: number * 16,
                end: number * 16 + 8,
                page_offset: 0,
                file: 0,
                flags: 0,
            };
            let region = Region {
                end: vma.end,
                shift: 0,
                cookie: 9,
                checked: 0,
                is_file: true,
            };
            table.insert(Found::unanchored(vma), region);
        }
    });
}

fn regions(tables: &Tables, place: Place) -> usize {
    tables.entry(place).map_or(0, |entry| entry.table.len())
}

#[test]
fn an_address_space_keeps_its_table_and_another_process_gets_another() {
    let mut tables = Tables::default();
    tables.begin(0);
    let first = enter(&mut tables, key(1));
    fill(&mut tables, first, 3);
    // The same address for another process, and many in between.
    let reused = Key { tgid: 9, ..key(1) };
    let other = enter(&mut tables, reused);
    assert_eq!(regions(&tables, other), 0);
    for number in 10..200 {
        enter(&mut tables, key(number));
    }
    let again = enter(&mut tables, key(1));
    assert_eq!((again, regions(&tables, again)), (first, 3));
    assert_eq!(tables.size(), (192, 3));
}

#[test]
fn looks_count_while_the_change_word_stays() {
    let mut tables = Tables::default();
    let mut floor = |word: Option<u64>| {
        tables.begin(0);
        tables.enter(key(1), || word).1
    };
    let words = [Some(5), Some(5), Some(6), Some(6), None, Some(6), Some(6)];
    let floors = words.map(&mut floor);
    assert_eq!(floors, [1, 1, 3, 3, 5, 6, 6]);
    // Now and then everything is looked at again.
    let later: Vec<u32> = (8..=RECHECK + 8).map(|_| floor(Some(6))).collect();
    assert_eq!(later.first(), Some(&6));
    assert_eq!(later.last(), Some(&8));
}

#[test]
fn a_change_word_is_looked_at_once_a_sync() {
    let mut tables = Tables::default();
    tables.begin(0);
    let (_, floor) = tables.enter(key(1), || Some(1));
    let again = tables.enter(key(1), || panic!("looked at again"));
    assert_eq!(again.1, floor);
}

#[test]
fn what_the_guest_says_is_changing_is_forgotten_at_once() {
    let mut tables = Tables::default();
    tables.begin(0);
    let place = enter(&mut tables, key(1));
    fill(&mut tables, place, 3);
    tables.changes(key(2).space);
    assert_eq!(regions(&tables, place), 3);
    tables.changes(key(1).space);
    assert_eq!(tables.size(), (1, 0));
}

#[test]
fn a_process_that_is_gone_serves_two_full_syncs_more() {
    let mut tables = Tables::default();
    tables.begin(5);
    let place = enter(&mut tables, key(1));
    fill(&mut tables, place, 1);
    tables.released(key(1).space);
    for full_syncs in [5, 6, 7] {
        tables.begin(full_syncs);
        let (late, of) = tables.late(1).expect("still there");
        assert_eq!((of, regions(&tables, late)), (key(1), 1));
    }
    tables.begin(8);
    assert_eq!(tables.late(1), None);
    assert_eq!(tables.size(), (0, 0));
}

#[test]
fn an_address_space_that_is_released_and_used_on_stays() {
    let mut tables = Tables::default();
    tables.begin(0);
    enter(&mut tables, key(1));
    tables.released(key(1).space);
    enter(&mut tables, key(1));
    tables.begin(9);
    assert_eq!(tables.size(), (1, 0));
}

#[test]
fn the_latest_address_space_of_a_process_is_the_late_one() {
    let mut tables = Tables::default();
    tables.begin(0);
    enter(&mut tables, key(1));
    let exec = Key { tgid: 1, ..key(2) };
    enter(&mut tables, exec);
    assert_eq!(tables.late(1).map(|(_, key)| key), Some(exec));
    assert_eq!(tables.late(2), None);
}

#[test]
fn a_note_finds_the_tables_of_its_address_space_among_all() {
    let mut tables = Tables::default();
    tables.begin(0);
    let sharer = |tgid| Key { tgid, ..key(7) };
    for round in 0..3 {
        for number in 0..3_000 {
            enter(&mut tables, key(number));
        }
        for tgid in 8_000..8_003 {
            let place = enter(&mut tables, sharer(tgid));
            fill(&mut tables, place, 2);
        }
        let place = enter(&mut tables, key(8));
        fill(&mut tables, place, 3);
        let before = tables.size().1;
        tables.changes(key(7).space);
        assert_eq!(tables.size().1, before - 3 * 2, "{round}");
        assert_eq!(regions(&tables, place), 3);
        // Some go, so that others are elsewhere.
        tables.retain(|entry| entry.key.tgid % 3 != round && entry.key != key(8));
    }
    let kept = tables.size().0;
    tables.released(key(7).space);
    tables.begin(9);
    let of_space = |entry: &Entry| entry.key.space == key(7).space;
    assert!(!tables.entries.iter().any(of_space) && tables.size().0 > kept - 5);
}

#[test]
fn so_many_tables_of_one_address_space_are_kept() {
    let mut tables = Tables::default();
    let sharer = |tgid| Key { tgid, ..key(7) };
    let most = u32::try_from(MAX_SHARERS).unwrap();
    for tgid in 7..5_000 {
        tables.begin(0);
        enter(&mut tables, key(1));
        // The parent and its children, which come and go.
        let parent = enter(&mut tables, sharer(7));
        fill(&mut tables, parent, 5);
        let child = enter(&mut tables, sharer(tgid));
        fill(&mut tables, child, 3);
        assert_eq!(
            tables.entry(child).map(|entry| entry.key),
            Some(sharer(tgid))
        );
        assert_eq!(tables.late(tgid).map(|(_, key)| key), Some(sharer(tgid)));
        assert_eq!(tables.by_key.len(), tables.entries.len());
        assert!(tables.by_process.len() <= tables.entries.len());
        let mut seen = 0;
        tables.for_each_of(key(7).space, |_| seen += 1);
        assert_eq!(seen, (tgid - 6).min(most));
        assert!(tables.by_key.contains_key(&sharer(7)));
    }
    assert_eq!(tables.size().0, MAX_SHARERS + 1);
    tables.changes(key(7).space);
    assert_eq!(tables.size().1, 0);
}

#[test]
fn tables_are_bounded_and_the_latest_stay() {
    let mut tables = Tables::default();
    for number in 0..12_288 {
        tables.begin(0);
        let place = enter(&mut tables, key(number));
        assert_eq!(
            tables.entry(place).map(|entry| entry.key),
            Some(key(number))
        );
        assert!(tables.size().0 <= MAX_TABLES);
        if let Some(before) = number.checked_sub(100) {
            assert!(tables.by_key.contains_key(&key(before)), "{number}");
        }
    }
}

#[test]
fn tables_of_one_sync_are_bounded_too() {
    let mut tables = Tables::default();
    tables.begin(0);
    for number in 0..8_192 {
        enter(&mut tables, key(number));
        assert!(tables.size().0 <= MAX_TABLES);
    }
}

#[test]
fn mappings_are_bounded_by_those_who_ask_for_room() {
    let mut tables = Tables::default();
    for number in 0..40 {
        tables.begin(0);
        let place = enter(&mut tables, key(number));
        if tables.has_room(20_000) {
            fill(&mut tables, place, 20_000);
        }
        assert!(tables.size().1 <= MAX_REGIONS);
    }
    // Room was made by the half that was not used for longest.
    assert!(tables.by_key.contains_key(&key(39)));
}

#[test]
fn numbers_of_syncs_start_over_with_nothing_remembered() {
    let mut tables = Tables {
        sync: u32::MAX - 1,
        ..Tables::default()
    };
    tables.begin(0);
    enter(&mut tables, key(1));
    tables.begin(0);
    assert_eq!((tables.sync(), tables.size()), (1, (0, 0)));
}
