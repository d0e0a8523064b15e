//! The code that HPACK packs strings with (RFC 7541, appendix B), unpacked. We send none of it: it is for wires.
//!
//! The code is canonical: symbols of one length have consecutive codes, in the order of their values. So it is told
//! by the lengths alone.

/// Bits of each symbol's code. The last is the end of a string, which never occurs in one.
#[rustfmt::skip]
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28,
    28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6,
    6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6,
    6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22,
    20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23,
    22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22,
    23, 23, 20, 22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22,
    25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,
];

/// Bits of the longest code.
const LONGEST: usize = 30;

/// For each length: the first code, how many there are, and where their symbols stand in [`SYMBOLS`].
const RANGES: [(u32, u32, usize); LONGEST + 1] = ranges();

/// The symbols, by length and value.
const SYMBOLS: [u16; 257] = symbols();

const fn ranges() -> [(u32, u32, usize); LONGEST + 1] {
    let mut ranges = [(0, 0, 0); LONGEST + 1];
    let (mut code, mut place, mut bits) = (0, 0, 1);
    while bits <= LONGEST {
        let (mut count, mut symbol) = (0, 0);
        while symbol < LENGTHS.len() {
            if LENGTHS[symbol] as usize == bits {
                count += 1;
            }
            symbol += 1;
        }
        ranges[bits] = (code, count, place);
        place += count as usize;
        code = (code + count) << 1;
        bits += 1;
    }
    ranges
}

const fn symbols() -> [u16; 257] {
    let mut symbols = [0; 257];
    let (mut place, mut bits) = (0, 1);
    while bits <= LONGEST {
        let mut symbol = 0;
        while symbol < LENGTHS.len() {
            if LENGTHS[symbol] as usize == bits {
                symbols[place] = symbol as u16;
                place += 1;
            }
            symbol += 1;
        }
        bits += 1;
    }
    symbols
}

/// Unpacks a string; `None` where it is none.
pub(crate) fn decode(packed: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(packed.len() * 8 / 5);
    let (mut code, mut bits) = (0u32, 0usize);
    for byte in packed {
        for shift in (0..8).rev() {
            code = code << 1 | u32::from(byte >> shift & 1);
            bits += 1;
            if bits > LONGEST {
                return None;
            }
            let (first, count, place) = RANGES[bits];
            if let Some(nth) = code.checked_sub(first).filter(|nth| *nth < count) {
                // The end of a string is no byte.
                out.push(u8::try_from(SYMBOLS[place + nth as usize]).ok()?);
                (code, bits) = (0, 0);
            }
        }
    }
    // What is left of the last byte is the beginning of the code that is all ones.
    (bits < 8 && code == (1 << bits) - 1).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(text: &[u8]) -> Vec<u8> {
        let (mut out, mut held, mut bits) = (Vec::new(), 0u64, 0);
        let mut put = |code: u32, length: usize| {
            held = held << length | u64::from(code);
            bits += length;
            while bits >= 8 {
                bits -= 8;
                out.push((held >> bits) as u8);
                held &= (1 << bits) - 1;
            }
            bits
        };
        let mut left = 0;
        for byte in text {
            let length = usize::from(LENGTHS[usize::from(*byte)]);
            let (first, _, place) = RANGES[length];
            let nth = SYMBOLS[place..]
                .iter()
                .position(|s| *s == u16::from(*byte))
                .unwrap();
            left = put(first + nth as u32, length);
        }
        if left > 0 {
            put((1 << (8 - left)) - 1, 8 - left);
        }
        out
    }

    #[test]
    fn the_code_is_that_of_the_standard() {
        let code = |symbol: u16| {
            let (first, _, place) = RANGES[usize::from(LENGTHS[usize::from(symbol)])];
            first + SYMBOLS[place..].iter().position(|s| *s == symbol).unwrap() as u32
        };
        // Lines of appendix B, here and there.
        for (symbol, wanted) in [
            (0, 0x1ff8),
            (48, 0),
            (32, 0x14),
            (97, 3),
            (123, 0x7ffe),
            (249, 0xffffffe),
            (256, 0x3fff_ffff),
        ] {
            assert_eq!(code(symbol), wanted, "{symbol}");
        }
    }

    #[test]
    fn strings_of_the_standard_are_read() {
        // RFC 7541, C.4.1 and C.6.1.
        let packed = [
            0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff,
        ];
        assert_eq!(decode(&packed).unwrap(), b"www.example.com");
        assert_eq!(decode(&[0x64, 0x02]).unwrap(), b"302");
        assert_eq!(decode(&[]).unwrap(), b"");
    }

    #[test]
    fn padding_is_short_and_all_ones() {
        assert_eq!(decode(&[0x64, 0x02, 0xff]), None);
        assert_eq!(decode(&[0x64, 0x0a]), None);
        assert_eq!(
            decode(&[0xff, 0xff, 0xff, 0xff]),
            None,
            "the end of a string within one"
        );
    }

    proptest::proptest! {
        #[test]
        fn what_was_packed_is_unpacked(text: Vec<u8>) {
            assert_eq!(decode(&encode(&text)), Some(text));
        }

        #[test]
        fn nothing_makes_it_fall_over(bytes: Vec<u8>) {
            let _ = decode(&bytes);
        }
    }
}
