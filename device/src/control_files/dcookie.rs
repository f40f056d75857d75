//! `lookup_dcookie(2)`: from a cookie to the path of its file.

use super::ControlError;

/// Longest path with its NUL: a page.
const MAX_PATH_BYTES: usize = 4096;

/// What Linux writes behind the path of an unlinked file.
const DELETED: &[u8] = b" (deleted)";

/// The file that a cookie stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CookieFile {
    /// Its path, as it was registered first: a cookie ignores mounts.
    pub path: Vec<u8>,
    /// It has been unlinked.
    pub deleted: bool,
}

impl CookieFile {
    /// Its path as the system call returns it, with a NUL at the end, for a caller with room for `room` bytes.
    ///
    /// # Errors
    /// [`ControlError::NameTooLong`] beyond a page, then [`ControlError::OutOfRange`] beyond `room`.
    pub fn answer(self, room: u64) -> Result<Vec<u8>, ControlError> {
        let mut answer = self.path;
        if self.deleted {
            answer.extend_from_slice(DELETED);
        }
        answer.push(0);
        if answer.len() > MAX_PATH_BYTES {
            return Err(ControlError::NameTooLong);
        }
        if answer.len() as u64 > room {
            return Err(ControlError::OutOfRange);
        }
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(length: usize, deleted: bool, room: u64) -> Result<usize, ControlError> {
        let file = CookieFile {
            path: vec![b'/'; length],
            deleted,
        };
        file.answer(room).map(|answer| answer.len())
    }

    #[test]
    fn a_path_has_its_nul_and_its_suffix() {
        let mut file = CookieFile {
            path: b"/bin/a\xff".to_vec(),
            deleted: false,
        };
        assert_eq!(file.clone().answer(100), Ok(b"/bin/a\xff\0".to_vec()));
        file.deleted = true;
        assert_eq!(file.answer(100), Ok(b"/bin/a\xff (deleted)\0".to_vec()));
    }

    #[test]
    fn the_nul_needs_room_as_well() {
        assert_eq!(answer(12, false, 13), Ok(13));
        assert_eq!(answer(12, false, 12), Err(ControlError::OutOfRange));
        assert_eq!(answer(12, true, 22), Err(ControlError::OutOfRange));
        assert_eq!(answer(12, true, u64::MAX), Ok(23));
    }

    #[test]
    fn beyond_a_page_the_length_of_the_buffer_plays_no_part() {
        assert_eq!(answer(4095, false, 5000), Ok(4096));
        assert_eq!(answer(4096, false, 0), Err(ControlError::NameTooLong));
        assert_eq!(answer(4085, true, 5000), Ok(4096));
        assert_eq!(answer(4086, true, 5000), Err(ControlError::NameTooLong));
    }
}
