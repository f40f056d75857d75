//! Keys that are for the VMM: those behind Ctrl-A, as in QEMU.

/// Ctrl-A.
const ESCAPE: u8 = 1;

/// What a key means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// It is the guest's.
    Guest(u8),
    /// It ends the VM.
    End,
    /// It is nobody's, or the next key tells.
    Nothing,
}

/// Follows the keys.
#[derive(Clone, Copy, Debug, Default)]
pub struct Keys {
    is_escaped: bool,
}

impl Keys {
    /// What `key` means behind those before it.
    pub const fn take(&mut self, key: u8) -> Key {
        match (self.is_escaped, key) {
            (false, ESCAPE) => {
                self.is_escaped = true;
                return Key::Nothing;
            }
            (false, key) => return Key::Guest(key),
            (true, _) => self.is_escaped = false,
        }
        match key {
            b'x' | b'X' => Key::End,
            b'a' | ESCAPE => Key::Guest(ESCAPE),
            _ => Key::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meanings(keys: &[u8]) -> Vec<Key> {
        let mut state = Keys::default();
        keys.iter().map(|key| state.take(*key)).collect()
    }

    #[test]
    fn keys_are_the_guests_but_for_those_behind_ctrl_a() {
        assert_eq!(meanings(b"x\x03"), [Key::Guest(b'x'), Key::Guest(3)]);
        assert_eq!(
            meanings(b"\x01q\x01ax"),
            [
                Key::Nothing,
                Key::Nothing,
                Key::Nothing,
                Key::Guest(1),
                Key::Guest(b'x')
            ]
        );
        assert_eq!(meanings(b"\x01\x01"), [Key::Nothing, Key::Guest(1)]);
    }

    #[test]
    fn ctrl_a_x_ends_the_vm() {
        assert_eq!(meanings(b"\x01x"), [Key::Nothing, Key::End]);
        assert_eq!(meanings(b"\x01X"), [Key::Nothing, Key::End]);
    }
}
