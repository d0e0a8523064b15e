//! D-Bus messages, as far as systemd is spoken to (D-Bus specification, "Message Protocol"): bytes that are written and read,
//! and no more types than that takes.

use std::io;

/// The kinds of message that are told apart.
pub(super) const CALL: u8 = 1;
pub(super) const REPLY: u8 = 2;
pub(super) const ERROR: u8 = 3;
pub(super) const SIGNAL: u8 = 4;

/// Length of a header before its fields, with their length.
pub(super) const FIXED: usize = 16;

/// A message of systemd's is never near this.
const LONGEST: usize = 1 << 20;

/// A value with its type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Bool(bool),
    Number(u64),
    Text(String),
    Numbers(Vec<u32>),
    Bytes(Vec<u8>),
}

/// What is being written.
#[derive(Debug, Default)]
pub(super) struct Writer(Vec<u8>);

impl Writer {
    fn align(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }

    pub(super) fn u32(&mut self, number: u32) {
        self.align(4);
        self.0.extend(number.to_le_bytes());
    }

    /// A string, or the path of an object.
    pub(super) fn text(&mut self, text: &str) {
        self.u32(u32::try_from(text.len()).unwrap_or(u32::MAX));
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    fn signature(&mut self, text: &str) {
        self.0.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    /// An array whose elements begin at multiples of `align`.
    pub(super) fn array(&mut self, align: usize, elements: impl FnOnce(&mut Writer)) {
        self.u32(0);
        let length = self.0.len() - 4;
        self.align(align);
        let begin = self.0.len();
        elements(self);
        let bytes = u32::try_from(self.0.len() - begin).unwrap_or(u32::MAX);
        self.0[length..length + 4].copy_from_slice(&bytes.to_le_bytes());
    }

    pub(super) fn variant(&mut self, value: &Value) {
        match value {
            Value::Bool(yes) => {
                self.signature("b");
                self.u32((*yes).into());
            }
            Value::Number(number) => {
                self.signature("t");
                self.align(8);
                self.0.extend(number.to_le_bytes());
            }
            Value::Text(text) => {
                self.signature("s");
                self.text(text);
            }
            Value::Numbers(numbers) => {
                self.signature("au");
                self.array(4, |writer| numbers.iter().for_each(|number| writer.u32(*number)));
            }
            Value::Bytes(bytes) => {
                self.signature("ay");
                self.array(1, |writer| writer.0.extend(bytes));
            }
        }
    }

    /// `a(sv)`.
    pub(super) fn properties(&mut self, properties: &[(&str, Value)]) {
        self.array(8, |writer| {
            for (name, value) in properties {
                writer.align(8);
                writer.text(name);
                writer.variant(value);
            }
        });
    }
}

/// A method call with this body, as the bytes of a message.
pub(super) fn call(serial: u32, target: [&str; 3], signature: &str, body: &Writer) -> Vec<u8> {
    let [path, interface, member] = target;
    let mut message = Writer(vec![b'l', CALL, 0, 1]);
    message.u32(u32::try_from(body.0.len()).unwrap_or(u32::MAX));
    message.u32(serial);
    message.array(8, |fields| {
        let named = [(1, "o", path), (2, "s", interface), (3, "s", member)];
        for (code, kind, text) in named.into_iter().chain([(6, "s", "org.freedesktop.systemd1")]) {
            fields.align(8);
            fields.0.push(code);
            fields.signature(kind);
            fields.text(text);
        }
        fields.align(8);
        fields.0.push(8);
        fields.signature("g");
        fields.signature(signature);
    });
    message.align(8);
    message.0.extend(&body.0);
    message.0
}

/// How many bytes follow a message's first [`FIXED`].
pub(super) fn rest(fixed: &[u8; FIXED]) -> io::Result<usize> {
    let mut reader = Reader { bytes: fixed, at: 4 };
    let lengths = (|| Some((reader.u32()?, reader.u32()?, reader.u32()?)))();
    let total = lengths
        .map(|(body, _, fields)| (body as usize).saturating_add((fields as usize).next_multiple_of(8)));
    match total.filter(|total| fixed[0] == b'l' && *total <= LONGEST) {
        Some(total) => Ok(total),
        None => Err(malformed()),
    }
}

pub(super) fn malformed() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "an answer that is no message of D-Bus",
    )
}

/// A message that arrived.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) kind: u8,
    /// The call that it answers.
    pub(super) answers: u32,
    pub(super) error: String,
    pub(super) member: String,
    /// The strings and object paths of its body, one after the other, in variants too; numbers are passed by.
    pub(super) texts: Vec<String>,
}

impl Message {
    /// Reads a whole one.
    pub(super) fn parse(bytes: &[u8]) -> io::Result<Message> {
        Message::try_parse(bytes).ok_or_else(malformed)
    }

    fn try_parse(bytes: &[u8]) -> Option<Message> {
        let mut message = Message {
            kind: *bytes.get(1)?,
            ..Message::default()
        };
        let mut signature = String::new();
        let mut reader = Reader { bytes, at: 12 };
        let length = reader.u32()? as usize;
        let end = FIXED + length;
        while reader.at < end {
            reader.align(8);
            let code = reader.byte()?;
            match reader.signature()?.as_str() {
                "s" | "o" => {
                    let text = reader.text()?;
                    match code {
                        3 => message.member = text,
                        4 => message.error = text,
                        _ => {}
                    }
                }
                "g" => signature = reader.signature()?,
                "u" => {
                    let number = reader.u32()?;
                    if code == 5 {
                        message.answers = number;
                    }
                }
                _ => return None,
            }
        }
        reader.align(8);
        for kind in signature.chars() {
            match kind {
                's' | 'o' => message.texts.push(reader.text()?),
                'u' => drop(reader.u32()?),
                'v' => match reader.signature()?.as_str() {
                    "s" | "o" => message.texts.push(reader.text()?),
                    _ => break,
                },
                // Of signals that nobody here waits for.
                _ => break,
            }
        }
        Some(message)
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }

    fn take(&mut self, length: usize) -> Option<&[u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(length)?)?;
        self.at += length;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn u32(&mut self) -> Option<u32> {
        self.align(4);
        self.take(4)?.try_into().ok().map(u32::from_le_bytes)
    }

    fn string(&mut self, length: usize) -> Option<String> {
        let text = self.take(length)?.to_vec();
        self.take(1)?;
        String::from_utf8(text).ok()
    }

    fn text(&mut self) -> Option<String> {
        let length = self.u32()? as usize;
        self.string(length)
    }

    fn signature(&mut self) -> Option<String> {
        let length = self.byte()?.into();
        self.string(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut body = Writer::default();
        body.text("one.scope");
        body.text("replace");
        let bytes = call(7, ["/a", "b.c", "Do"], "ss", &body);
        let fixed = bytes[..FIXED].try_into().unwrap();
        assert_eq!(rest(&fixed).unwrap(), bytes.len() - FIXED);
        let message = Message::parse(&bytes).unwrap();
        assert_eq!((message.kind, message.member.as_str()), (CALL, "Do"));
        assert_eq!(message.texts, ["one.scope", "replace"]);
        for length in 0..bytes.len() {
            // Cut short, it is none, or says less.
            let _ = Message::parse(&bytes[..length]);
        }
        assert!(rest(b"B\x01\0\x01\0\0\0\0\x01\0\0\0\0\0\0\0").is_err());
        assert!(rest(b"l\x01\0\x01\xff\xff\xff\xff\x01\0\0\0\0\0\0\0").is_err());
    }

    #[test]
    fn containers_are_aligned() {
        let mut writer = Writer::default();
        writer.properties(&[("A", Value::Bool(true)), ("B", Value::Number(5))]);
        let mut expected = vec![40, 0, 0, 0, 0, 0, 0, 0];
        expected.extend(b"\x01\0\0\0A\0\x01b\0\0\0\0\x01\0\0\0");
        expected.extend(b"\x01\0\0\0B\0\x01t\0\0\0\0\0\0\0\0\x05\0\0\0\0\0\0\0");
        assert_eq!(writer.0, expected);
        let mut numbers = Writer::default();
        numbers.variant(&Value::Numbers(vec![9]));
        assert_eq!(numbers.0, [2, b'a', b'u', 0, 4, 0, 0, 0, 9, 0, 0, 0]);
        let mut bytes = Writer::default();
        bytes.variant(&Value::Bytes(vec![3]));
        assert_eq!(bytes.0, [2, b'a', b'y', 0, 1, 0, 0, 0, 3]);
    }
}
