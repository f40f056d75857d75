//! Perf maps: text files in which just-in-time compilers tell what they compiled, `START SIZE name` on each line, both
//! numbers hexadecimal.
//!
//! | module | what it does |
//! |---|---|
//! | `resume` | reading on where reading ended |
//! | `wanted` | which processes' maps the device has, and which it asks the driver for |
//!
//! The text is the guest's: lines, names and their number are bounded, and what is no line of a map is counted.

mod resume;
mod wanted;

use std::collections::BTreeMap;
use std::sync::Arc;

pub(crate) use wanted::{NotAsked, PerfMaps};

/// Longest line in bytes; demangled names of templates and generics reach some hundred.
pub const MAX_LINE_BYTES: usize = 4_096;

/// Bytes of a name that are kept.
pub const MAX_NAME_BYTES: usize = 1_024;

/// Most bytes of one process's map: some 200,000 lines. A Java server of 50,000 methods writes 5 MiB.
pub const MAX_TEXT_BYTES: u64 = 16 * 1024 * 1024;

/// Most functions of one process.
pub const MAX_FUNCTIONS: usize = 262_144;

/// Digits of a number: 64 bits.
const MAX_DIGITS: usize = 16;

/// A line of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Function {
    start: u64,
    end: u64,
    /// Where its name is.
    name: u32,
    name_bytes: u16,
}

/// What one process's map says. A copy of it is cheap to have: the device keeps it behind an [`Arc`].
#[derive(Clone, Debug, Default)]
pub struct PerfMap {
    id: u32,
    /// In the order of the file.
    functions: Vec<Function>,
    names: Vec<u8>,
}

/// A part of a function's code that no later line gives to another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// First address.
    pub start: u64,
    /// Address behind the last.
    pub end: u64,
    function: usize,
}

impl PerfMap {
    /// An empty map; `id` tells it from others.
    #[must_use]
    pub fn new(id: u32) -> Self {
        Self {
            id,
            ..Self::default()
        }
    }

    /// What tells it from others, whatever its state.
    #[must_use]
    pub const fn id(&self) -> u32 {
        self.id
    }

    /// Another number for each state of each map; never less than 2^32 for an id above 0.
    #[must_use]
    pub const fn version(&self) -> u64 {
        (self.id as u64) << 32 | self.functions.len() as u64
    }

    /// Number of lines that name a function.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.functions.len()
    }

    /// Whether nothing has a name.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.functions.is_empty()
    }

    /// Host memory that it takes, in bytes.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.functions.len() * size_of::<Function>() + self.names.len()
    }

    /// The name of a piece's function: 1 to [`MAX_NAME_BYTES`] bytes, any but NUL and line feed.
    #[must_use]
    pub fn name(&self, piece: Piece) -> &[u8] {
        self.functions
            .get(piece.function)
            .and_then(|function| {
                let start = function.name as usize;
                self.names
                    .get(start..start + usize::from(function.name_bytes))
            })
            .unwrap_or_default()
    }

    /// Which function is at which address: by address, none overlaps another. Code is written over code that is not used any
    /// more, so where lines overlap the later one holds.
    #[must_use]
    pub fn pieces(&self) -> Vec<Piece> {
        let mut taken = Taken::default();
        let mut pieces = Vec::with_capacity(self.functions.len());
        for (function, &Function { start, end, .. }) in self.functions.iter().enumerate().rev() {
            taken.take(start, end, |start, end| {
                pieces.push(Piece {
                    start,
                    end,
                    function,
                });
            });
        }
        pieces.sort_unstable_by_key(|piece| piece.start);
        pieces
    }
}

/// Addresses that are taken: ranges by their start, none touches another.
#[derive(Default)]
struct Taken(BTreeMap<u64, u64>);

impl Taken {
    /// Takes what is free of a range, and tells each part of it.
    fn take(&mut self, start: u64, end: u64, mut free: impl FnMut(u64, u64)) {
        let (mut from, mut to, mut at) = (start, end, start);
        // A range that reaches into this one, or up to it.
        if let Some((&first, &last)) = self.0.range(..start).next_back()
            && last >= start
        {
            (from, at) = (first, last.min(end));
            to = to.max(last);
        }
        while let Some((&first, &last)) = self.0.range(start..=end).next() {
            if first > at {
                free(at, first);
            }
            at = at.max(last.min(end));
            to = to.max(last);
            self.0.remove(&first);
        }
        if at < end {
            free(at, end);
        }
        self.0.insert(from, to);
    }
}

/// What came of a piece of text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taking {
    /// Lines that are none of a map.
    pub bad_lines: u64,
    /// There is no room for what follows; it is to be left out.
    pub is_full: bool,
}

/// Reads a map as it comes, in pieces that may end anywhere.
#[derive(Clone, Debug, Default)]
pub struct Reader {
    /// Bytes of text so far.
    offset: u64,
    /// The start of a line whose end has not come.
    line: Vec<u8>,
    /// That line is too long, and already counted.
    is_skipping: bool,
}

impl Reader {
    /// Bytes that have been read.
    #[must_use]
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// Takes the next piece of the text into `map`, which may have `room` bytes more. A line counts when it has ended.
    pub fn read(&mut self, mut text: &[u8], map: &mut PerfMap, room: usize) -> Taking {
        let mut taking = Taking::default();
        let limit = map.bytes().saturating_add(room);
        self.offset = self.offset.saturating_add(text.len() as u64);
        if self.offset > MAX_TEXT_BYTES {
            taking.is_full = true;
            return taking;
        }
        while let Some(length) = text.iter().position(|byte| *byte == b'\n') {
            let (line, rest) = (&text[..length], &text[length + 1..]);
            text = rest;
            if std::mem::take(&mut self.is_skipping) {
                continue;
            }
            let line = if self.line.is_empty() {
                self.take_line(line, map, limit)
            } else {
                self.line.extend_from_slice(line);
                let line = std::mem::take(&mut self.line);
                self.take_line(&line, map, limit)
            };
            match line {
                Line::Good => {}
                Line::Bad => taking.bad_lines += 1,
                Line::NoRoom => {
                    taking.is_full = true;
                    return taking;
                }
            }
        }
        if !self.is_skipping {
            if self.line.len() + text.len() > MAX_LINE_BYTES {
                taking.bad_lines += 1;
                self.is_skipping = true;
                self.line = Vec::new();
            } else {
                self.line.extend_from_slice(text);
            }
        }
        taking
    }

    fn take_line(&self, line: &[u8], map: &mut PerfMap, limit: usize) -> Line {
        let line = line.trim_ascii();
        if line.is_empty() {
            return Line::Good;
        }
        let Some((start, end, name)) = parse(line) else {
            return Line::Bad;
        };
        let (Ok(at), Ok(name_bytes)) = (u32::try_from(map.names.len()), u16::try_from(name.len()))
        else {
            return Line::NoRoom;
        };
        let kept = map.bytes() + size_of::<Function>() + name.len();
        if kept > limit || map.functions.len() >= MAX_FUNCTIONS {
            return Line::NoRoom;
        }
        map.functions.push(Function {
            start,
            end,
            name: at,
            name_bytes,
        });
        map.names.extend_from_slice(name);
        Line::Good
    }
}

/// What came of a line.
enum Line {
    Good,
    Bad,
    NoRoom,
}

/// `START SIZE name`; the name may hold blanks.
fn parse(line: &[u8]) -> Option<(u64, u64, &[u8])> {
    if line.len() > MAX_LINE_BYTES || line.contains(&0) {
        return None;
    }
    let (start, rest) = number(line)?;
    let (size, name) = number(rest)?;
    let end = start.checked_add(size).filter(|end| *end > start)?;
    let name = &name[..name.len().min(MAX_NAME_BYTES)];
    (!name.is_empty()).then_some((start, end, name))
}

/// A hexadecimal number, and what follows behind blanks.
fn number(text: &[u8]) -> Option<(u64, &[u8])> {
    let text = text.strip_prefix(b"0x").unwrap_or(text);
    let digits = text.iter().take_while(|byte| byte.is_ascii_hexdigit());
    let count = digits.count();
    if !(1..=MAX_DIGITS).contains(&count) {
        return None;
    }
    let (digits, rest) = text.split_at(count);
    let value = digits.iter().fold(0, |value, digit| {
        value << 4 | u64::from(char::from(*digit).to_digit(16).unwrap_or(0))
    });
    let name = rest.trim_ascii_start();
    (name.len() < rest.len()).then_some((value, name))
}

/// A map's state, to be looked at without the device.
pub(crate) type Snapshot = Arc<PerfMap>;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ROOM: usize = 1 << 20;

    fn read(pieces: &[&[u8]]) -> (PerfMap, Taking) {
        let (mut reader, mut map) = (Reader::default(), PerfMap::new(1));
        let mut sum = Taking::default();
        for piece in pieces {
            let taking = reader.read(piece, &mut map, ROOM);
            sum.bad_lines += taking.bad_lines;
            sum.is_full |= taking.is_full;
        }
        (map, sum)
    }

    fn named(map: &PerfMap) -> Vec<(u64, u64, &str)> {
        let pieces = map.pieces();
        let named = pieces.iter().map(|piece| {
            let name = std::str::from_utf8(map.name(*piece)).unwrap();
            (piece.start, piece.end, name)
        });
        named.collect()
    }

    #[test]
    fn lines_of_real_maps_are_read() {
        let (map, taking) = read(&[
            b"7f00 1f LazyCompile:~foo /a b.js:1:2\n0x8000 10\t[stub]\n  9000  8  Ljava/x;::y\r\n\n",
            b"a000 1 \xff\xfe\n",
        ]);
        assert_eq!(taking, Taking::default());
        assert_eq!(
            named(&PerfMap {
                functions: map.functions[..3].to_vec(),
                ..map.clone()
            }),
            [
                (0x7f00, 0x7f1f, "LazyCompile:~foo /a b.js:1:2"),
                (0x8000, 0x8010, "[stub]"),
                (0x9000, 0x9008, "Ljava/x;::y"),
            ]
        );
        assert_eq!(map.name(map.pieces()[3]), b"\xff\xfe");
    }

    #[test]
    fn a_line_counts_when_it_has_ended_wherever_the_pieces_are_cut() {
        let text = b"1000 10 first\n2000 20 second\n3000 30 thi";
        for cut in 0..text.len() {
            let (map, taking) = read(&[&text[..cut], &text[cut..]]);
            assert_eq!(
                named(&map),
                [(0x1000, 0x1010, "first"), (0x2000, 0x2020, "second")]
            );
            assert_eq!(taking, Taking::default());
        }
    }

    #[test]
    fn what_is_no_line_of_a_map_is_counted_and_the_rest_is_read() {
        let long = [&b"1 1 "[..], &vec![b'x'; MAX_LINE_BYTES], b"\n"].concat();
        let bad: [&[u8]; 12] = [
            b"x\n",
            b"1000\n",
            b"1000 10\n",
            b"1000 10 \n",
            b"1000 0 empty\n",
            b"ffffffffffffffff 2 wraps\n",
            b"11111222223333344 1 too many digits\n",
            b"10g0 10 no digit\n",
            b"1000,10,f\n",
            b"1000 10 a\0b\n",
            b"-1 10 f\n",
            &long,
        ];
        for line in bad {
            let (map, taking) = read(&[line, b"1000 10 good\n"]);
            let shown = String::from_utf8_lossy(&line[..line.len().min(40)]);
            assert_eq!(named(&map), [(0x1000, 0x1010, "good")], "{shown}");
            assert_eq!(taking.bad_lines, 1, "{shown}");
        }
        // A line without an end is counted once, and nothing of it is kept.
        let (mut reader, mut map) = (Reader::default(), PerfMap::new(1));
        let mut bad = 0;
        for _ in 0..10 {
            bad += reader.read(&[b'1'; 3_000], &mut map, ROOM).bad_lines;
            assert!(reader.line.capacity() <= 2 * MAX_LINE_BYTES);
        }
        bad += reader.read(b"\n1000 10 good\n", &mut map, ROOM).bad_lines;
        assert_eq!((bad, map.len()), (1, 1));
    }

    #[test]
    fn a_long_name_is_cut() {
        let line = [&b"1000 10 "[..], &[b'x'; 2_000], b"\n"].concat();
        let (map, taking) = read(&[&line]);
        assert_eq!(map.name(map.pieces()[0]).len(), MAX_NAME_BYTES);
        assert_eq!(taking, Taking::default());
    }

    #[test]
    fn the_later_line_holds_where_lines_overlap() {
        let (map, _) = read(&[
            b"1000 100 old\n1040 20 middle\n10f0 20 end\n1000 8 start\n2000 10 gone\n1ff0 40 over\n",
        ]);
        assert_eq!(
            named(&map),
            [
                (0x1000, 0x1008, "start"),
                (0x1008, 0x1040, "old"),
                (0x1040, 0x1060, "middle"),
                (0x1060, 0x10f0, "old"),
                (0x10f0, 0x1110, "end"),
                (0x1ff0, 0x2030, "over"),
            ]
        );
    }

    #[test]
    fn room_and_text_have_an_end() {
        let (mut reader, mut map) = (Reader::default(), PerfMap::new(1));
        let room = size_of::<Function>() + 1;
        let taking = reader.read(b"1000 10 a\n2000 10 b\n", &mut map, room);
        assert!(taking.is_full && map.len() == 1);
        let mut reader = Reader {
            offset: MAX_TEXT_BYTES,
            ..Reader::default()
        };
        assert!(reader.read(b"\n", &mut map, ROOM).is_full);
    }

    proptest! {
        #[test]
        fn each_address_has_the_function_of_the_last_line_with_it(
            lines in prop::collection::vec((0u64..60, 1u64..20), 0..40),
        ) {
            let mut text = String::new();
            for (number, (start, size)) in lines.iter().enumerate() {
                text += &format!("{start:x} {size:x} {number}\n");
            }
            let (map, _) = read(&[text.as_bytes()]);
            let pieces = named(&map);
            prop_assert!(pieces.windows(2).all(|pair| pair[0].1 <= pair[1].0));
            prop_assert!(pieces.iter().all(|(start, end, _)| start < end));
            for address in 0..90 {
                let expected = lines
                    .iter()
                    .rposition(|(start, size)| (*start..start + size).contains(&address))
                    .map(|number| number.to_string());
                let found = pieces
                    .iter()
                    .find(|(start, end, _)| (*start..*end).contains(&address))
                    .map(|(_, _, name)| (*name).to_owned());
                prop_assert_eq!(found, expected);
            }
        }

        #[test]
        fn any_bytes_are_read_in_any_pieces_alike(
            text in prop::collection::vec(prop::sample::select(&b"0129afx \n\0\r"[..]), 0..400),
            cut in any::<prop::sample::Index>(),
        ) {
            let cut = cut.index(text.len() + 1);
            let (whole, all) = read(&[&text]);
            let (parts, some) = read(&[&text[..cut], &text[cut..]]);
            prop_assert_eq!(whole.functions, parts.functions);
            prop_assert_eq!(all, some);
        }
    }
}
