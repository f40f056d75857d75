//! Names that mean something to a session, or nearly.

use arbitrary::Arbitrary;

/// What paths are made of.
const TOKENS: [&[u8]; 16] = [
    b"/",
    b".",
    b"{root}",
    b"{kern}",
    b"{dep}",
    b"{cg}",
    b"{anon:",
    b"}",
    b"/{dep}/{root}/",
    b"/{dep}/{kern}/",
    b"/TIMER.0.0.all.all.0",
    b".1.2.3.4.5",
    b"/1.0x1000.0x2000/",
    b"/..",
    b"%",
    b"/var/lib/oprofile",
];

#[derive(Arbitrary, Debug)]
enum Piece {
    Token(u8),
    Bytes(Vec<u8>),
    /// A letter, so many times.
    Long(u16),
}

/// A name or path.
#[derive(Arbitrary, Debug)]
pub struct Name(Vec<Piece>);

impl Name {
    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut name = Vec::new();
        for piece in &self.0 {
            match piece {
                Piece::Token(token) => name.extend(TOKENS[usize::from(*token) % TOKENS.len()]),
                Piece::Bytes(bytes) => name.extend(bytes),
                Piece::Long(count) => name.resize(name.len() + usize::from(count % 1_200), b'n'),
            }
        }
        name
    }
}
