//! HPACK (RFC 7541): how headers are spelled. All of it is read; what we write is the plainest of it, which needs no
//! memory of what was said before.

mod huffman;

use std::collections::VecDeque;

/// A header.
pub(crate) type Field = (String, String);

/// Bytes of headers that a table keeps, where nothing else was agreed. We never ask for another size.
const TABLE: usize = 4096;

/// What a field counts beside its bytes.
const OVERHEAD: usize = 32;

/// Fields that have numbers from the beginning (appendix A).
const STATIC: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

/// What was said is no HPACK, or more than may be said: the connection cannot go on, since both tables differ now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

/// Reads blocks of headers of one connection, in the order in which they come.
pub(crate) struct Decoder {
    table: VecDeque<Field>,
    size: usize,
    max: usize,
}

impl Decoder {
    pub(crate) fn new() -> Decoder {
        Decoder {
            table: VecDeque::new(),
            size: 0,
            max: TABLE,
        }
    }

    /// Reads a whole block, of at most `limit` bytes of fields.
    pub(crate) fn decode(&mut self, mut block: &[u8], limit: usize) -> Result<Vec<Field>, Malformed> {
        let mut fields = Vec::new();
        let mut left = limit;
        while let Some(first) = block.first() {
            let field = if first & 0x80 != 0 {
                self.get(integer(&mut block, 7)?)?
            } else if first & 0x40 != 0 {
                let field = self.literal(&mut block, 6)?;
                self.insert(field.clone());
                field
            } else if first & 0x20 != 0 {
                let max = integer(&mut block, 5)?;
                if max > TABLE {
                    return Err(Malformed);
                }
                self.max = max;
                self.evict(max);
                continue;
            } else {
                self.literal(&mut block, 4)?
            };
            left = left
                .checked_sub(field.0.len() + field.1.len() + OVERHEAD)
                .ok_or(Malformed)?;
            fields.push(field);
        }
        Ok(fields)
    }

    fn get(&self, number: usize) -> Result<Field, Malformed> {
        let place = number.checked_sub(1).ok_or(Malformed)?;
        match STATIC.get(place) {
            Some((name, value)) => Ok(((*name).to_owned(), (*value).to_owned())),
            None => self.table.get(place - STATIC.len()).cloned().ok_or(Malformed),
        }
    }

    fn literal(&self, block: &mut &[u8], bits: u32) -> Result<Field, Malformed> {
        let name = match integer(block, bits)? {
            0 => string(block)?,
            number => self.get(number)?.0,
        };
        Ok((name, string(block)?))
    }

    fn insert(&mut self, field: Field) {
        let size = field.0.len() + field.1.len() + OVERHEAD;
        self.evict(self.max.saturating_sub(size));
        // One that is larger than the table empties it, and is not in it.
        if size <= self.max {
            self.size += size;
            self.table.push_front(field);
        }
    }

    fn evict(&mut self, max: usize) {
        while self.size > max
            && let Some((name, value)) = self.table.pop_back()
        {
            self.size -= name.len() + value.len() + OVERHEAD;
        }
    }
}

/// A number that begins in the lowest `bits` of the first byte (section 5.1).
fn integer(block: &mut &[u8], bits: u32) -> Result<usize, Malformed> {
    let mut next = || {
        let (first, rest) = block.split_first().ok_or(Malformed)?;
        *block = rest;
        Ok(usize::from(*first))
    };
    let full = (1 << bits) - 1;
    let mut value = next()? & full;
    if value < full {
        return Ok(value);
    }
    // Nothing that may be said has more than 28 bits.
    for shift in [0, 7, 14, 21] {
        let byte = next()?;
        value += (byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(Malformed)
}

fn string(block: &mut &[u8]) -> Result<String, Malformed> {
    let packed = block.first().ok_or(Malformed)? & 0x80 != 0;
    let length = integer(block, 7)?;
    let (bytes, rest) = block.split_at_checked(length).ok_or(Malformed)?;
    *block = rest;
    let bytes = match packed {
        true => huffman::decode(bytes).ok_or(Malformed)?,
        false => bytes.to_vec(),
    };
    // Nothing that gRPC says in headers is anything but ASCII.
    String::from_utf8(bytes).map_err(|_| Malformed)
}

/// Appends a field as it is, to be remembered by nobody.
pub(crate) fn put(out: &mut Vec<u8>, name: &str, value: &str) {
    if let Some(place) = STATIC.iter().position(|field| *field == (name, value)) {
        put_integer(out, 0x80, 7, place + 1);
        return;
    }
    match STATIC.iter().position(|field| field.0 == name) {
        Some(place) => put_integer(out, 0, 4, place + 1),
        None => {
            out.push(0);
            put_string(out, name);
        }
    }
    put_string(out, value);
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    put_integer(out, 0, 7, text.len());
    out.extend_from_slice(text.as_bytes());
}

fn put_integer(out: &mut Vec<u8>, high: u8, bits: u32, value: usize) {
    let full = (1 << bits) - 1;
    if value < full {
        out.push(high | value as u8);
        return;
    }
    out.push(high | full as u8);
    let mut value = value - full;
    while value >= 0x80 {
        out.push(0x80 | value as u8);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(pairs: &[(&str, &str)]) -> Vec<Field> {
        pairs
            .iter()
            .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
            .collect()
    }

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect()
    }

    #[test]
    fn requests_of_the_standard() {
        // RFC 7541, C.4: three requests on one connection, packed.
        let mut decoder = Decoder::new();
        let common = [
            (":method", "GET"),
            (":scheme", "http"),
            (":path", "/"),
            (":authority", "www.example.com"),
        ];
        let first = hex("8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff");
        assert_eq!(decoder.decode(&first, 1000).unwrap(), fields(&common));
        let second = hex("8286 84be 5886 a8eb 1064 9cbf");
        let mut wanted = common.to_vec();
        wanted.push(("cache-control", "no-cache"));
        assert_eq!(decoder.decode(&second, 1000).unwrap(), fields(&wanted));
        let third = hex("8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf");
        let wanted = [
            (":method", "GET"),
            (":scheme", "https"),
            (":path", "/index.html"),
            (":authority", "www.example.com"),
            ("custom-key", "custom-value"),
        ];
        assert_eq!(decoder.decode(&third, 1000).unwrap(), fields(&wanted));
        assert_eq!(decoder.size, 164);
    }

    #[test]
    fn a_table_forgets_the_oldest() {
        // RFC 7541, C.5.2 and C.5.3, whose table holds 256 bytes.
        let mut decoder = Decoder::new();
        let mut first = hex("3fe1 01");
        first.extend(hex("4803 3330 3258 0770 7269 7661 7465 611d"));
        first.extend(b"Mon, 21 Oct 2013 20:13:21 GMT");
        first.extend(hex("6e17"));
        first.extend(b"https://www.example.com");
        assert_eq!(decoder.decode(&first, 1000).unwrap().len(), 4);
        assert_eq!(decoder.size, 222);
        let second = decoder.decode(&hex("4803 3330 37c1 c0bf"), 1000).unwrap();
        assert_eq!(second[0], (":status".into(), "307".into()));
        assert_eq!(second[3], ("location".into(), "https://www.example.com".into()));
        assert_eq!(decoder.size, 222);
        // Beyond what we said we keep.
        assert_eq!(decoder.decode(&hex("3fe2 1f"), 1000), Err(Malformed));
    }

    #[test]
    fn what_is_malformed_is_refused() {
        for block in [
            "80",
            "be",
            "ff ff ff ff ff ff",
            "00",
            "0001",
            "0001 6101",
            "41 83 ff ff ff",
        ] {
            assert_eq!(
                Decoder::new().decode(&hex(block), 1000),
                Err(Malformed),
                "{block}"
            );
        }
        let mut long = Vec::new();
        put(&mut long, "a", &"x".repeat(1000));
        assert_eq!(Decoder::new().decode(&long, 1000), Err(Malformed));
    }

    proptest::proptest! {
        #[test]
        fn what_is_written_is_read(pairs: Vec<(String, String)>) {
            let mut block = Vec::new();
            pairs.iter().for_each(|(name, value)| put(&mut block, name, value));
            assert_eq!(Decoder::new().decode(&block, usize::MAX), Ok(pairs));
        }

        #[test]
        fn nothing_makes_it_fall_over(blocks: Vec<Vec<u8>>) {
            let mut decoder = Decoder::new();
            for block in blocks {
                let _ = decoder.decode(&block, 1 << 16);
                assert!(decoder.size <= TABLE);
            }
        }
    }
}
