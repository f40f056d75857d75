//! Perf maps: the text as it is, or lines that are nearly right, in pieces that end anywhere, with little room or much.

use arbitrary::{Arbitrary, Unstructured};
use oprofile_device::perf_map::{MAX_FUNCTIONS, MAX_NAME_BYTES, PerfMap, Reader, Taking};

/// Most memory that a map may take here.
const MOST_ROOM: usize = 1 << 16;

#[derive(Arbitrary, Debug)]
struct Input {
    lines: Vec<Line>,
    /// Where the text is cut.
    cuts: Vec<u16>,
    room: Option<u16>,
}

#[derive(Arbitrary, Debug)]
enum Line {
    /// Code at neighbouring addresses, so that lines overlap.
    Near(u8, u8, u8),
    /// Any numbers.
    Far(u64, u64, u8),
    /// Any name.
    Named(u8, u8, Vec<u8>),
    /// A long one.
    Long(u8, u16),
    /// Any text, without an end of its own.
    Raw(Vec<u8>),
}

impl Line {
    fn write(&self, text: &mut Vec<u8>) {
        match self {
            Self::Near(start, size, name) => {
                text.extend(format!("{start:x} {size:x} f{name}\n").bytes());
            }
            Self::Far(start, size, name) => {
                text.extend(format!("{start:016x}  {size:x} f{name}\n").bytes());
            }
            Self::Named(start, size, name) => {
                text.extend(format!("{start:x} 0x{size:x} ").bytes());
                text.extend(name);
                text.push(b'\n');
            }
            Self::Long(start, length) => {
                text.extend(format!("{start:x} 1 ").bytes());
                text.extend(std::iter::repeat_n(b'n', usize::from(length % 6_000)));
                text.push(b'\n');
            }
            Self::Raw(bytes) => text.extend(bytes),
        }
    }
}

fn read(pieces: &[&[u8]], room: usize) -> (PerfMap, Taking) {
    let (mut reader, mut map) = (Reader::default(), PerfMap::new(1));
    let mut sum = Taking::default();
    let mut left = room;
    let mut offset = 0;
    for piece in pieces {
        let before = map.bytes();
        let taking = reader.read(piece, &mut map, left);
        offset += piece.len() as u64;
        assert_eq!(reader.offset(), offset);
        left -= map.bytes() - before;
        sum.bad_lines += taking.bad_lines;
        if taking.is_full {
            sum.is_full = true;
            break;
        }
    }
    assert!(map.bytes() <= room && map.len() <= MAX_FUNCTIONS);
    (map, sum)
}

/// Each piece with its name, checked to be in order.
fn named(map: &PerfMap) -> Vec<(u64, u64, &[u8])> {
    let pieces = map.pieces();
    // Each line takes at most one piece, and cuts at most one in two.
    assert!(pieces.len() <= 2 * map.len());
    let mut end = 0;
    let check = |piece: &oprofile_device::perf_map::Piece| {
        assert!(end <= piece.start && piece.start < piece.end);
        end = piece.end;
        let name = map.name(*piece);
        assert!((1..=MAX_NAME_BYTES).contains(&name.len()));
        assert!(!name.contains(&0) && !name.contains(&b'\n'));
        (piece.start, piece.end, name)
    };
    pieces.iter().map(check).collect()
}

/// Runs the target.
///
/// # Panics
/// When it finds something.
pub fn run(data: &[u8]) {
    let Ok(input) = Input::arbitrary_take_rest(Unstructured::new(data)) else {
        return;
    };
    let mut text = Vec::new();
    for line in &input.lines {
        line.write(&mut text);
    }
    let room = input.room.map_or(MOST_ROOM, usize::from);
    let (whole, all) = read(&[&text], room);
    let expected = named(&whole);
    // Where it is cut does not matter.
    let mut pieces = Vec::new();
    let mut rest = &text[..];
    for cut in &input.cuts {
        let (piece, behind) = rest.split_at(usize::from(*cut) % (rest.len() + 1));
        pieces.push(piece);
        rest = behind;
    }
    pieces.push(rest);
    let (map, taking) = read(&pieces, room);
    assert_eq!((named(&map), taking), (expected.clone(), all));
    // A line that comes later takes its addresses from all others, and leaves the others theirs.
    if let Some(&(start, end, _)) = expected.first()
        && !all.is_full
        && room == MOST_ROOM
        && text.ends_with(b"\n")
    {
        text.extend(format!("{start:x} {:x} latest\n", end - start).bytes());
        let (map, _) = read(&[&text], 2 * MOST_ROOM);
        let now = named(&map);
        assert_eq!(now[0], (start, end, &b"latest"[..]));
        assert_eq!(now[1..], expected[1..]);
    }
}
