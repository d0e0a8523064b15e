//! Keys that leave a program at a terminal to itself.

/// What is typed is looked through for them.
pub(crate) struct Keys<'a> {
    keys: &'a [u8],
    /// How many of them were typed last; they are held back until it is known what follows.
    matched: usize,
}

impl<'a> Keys<'a> {
    /// Nobody leaves where there are none.
    pub(crate) fn new(keys: &'a [u8]) -> Keys<'a> {
        Keys { keys, matched: 0 }
    }

    /// Takes the keys out of what was just typed; true when all of them were.
    pub(crate) fn sift(&mut self, typed: &mut Vec<u8>) -> bool {
        if self.keys.is_empty() {
            return false;
        }
        let mut passed = Vec::new();
        for byte in std::mem::take(typed) {
            if byte == self.keys[self.matched] {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    return true;
                }
                continue;
            }
            passed.extend_from_slice(&self.keys[..self.matched]);
            self.matched = usize::from(byte == self.keys[0]);
            if self.matched == 0 {
                passed.push(byte);
            }
        }
        *typed = passed;
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attach::DETACH_KEYS;

    fn sifted(pieces: &[&[u8]]) -> (Vec<u8>, bool) {
        let mut keys = Keys::new(DETACH_KEYS);
        let mut passed = Vec::new();
        for piece in pieces {
            let mut typed = piece.to_vec();
            if keys.sift(&mut typed) {
                return (passed, true);
            }
            passed.append(&mut typed);
        }
        (passed, false)
    }

    #[test]
    fn keys_that_leave_are_told_from_those_that_do_not() {
        assert_eq!(sifted(&[b"ab\x10\x11"]), (vec![], true));
        assert_eq!(sifted(&[b"ab", b"\x10", b"\x11"]), (b"ab".to_vec(), true));
        assert_eq!(sifted(&[b"\x10", b"x\x11"]), (b"\x10x\x11".to_vec(), false));
        assert_eq!(sifted(&[b"\x10\x10", b"\x11"]), (b"\x10".to_vec(), true));
    }

    #[test]
    fn without_any_nothing_is_held_back() {
        let mut typed = b"\x10\x11".to_vec();
        assert!(!Keys::new(&[]).sift(&mut typed));
        assert_eq!(typed, b"\x10\x11");
    }
}
