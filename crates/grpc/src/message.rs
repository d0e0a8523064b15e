//! Messages within a call's data: a byte that says whether it is packed, four of length, and the bytes.

use crate::status::{Code, Status};

/// Bytes before each message.
pub(crate) const HEAD: usize = 5;

/// The head of a message of this length.
pub(crate) fn head(length: usize) -> [u8; HEAD] {
    let [a, b, c, d] = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    [0, a, b, c, d]
}

/// Takes the next whole message from `data`; `None` where it has not come whole.
///
/// # Errors
/// It is packed, or has more bytes than `limit`.
pub(crate) fn take(data: &mut Vec<u8>, limit: usize) -> Result<Option<Vec<u8>>, Status> {
    let Some((head, _)) = data.split_first_chunk::<HEAD>() else {
        return Ok(None);
    };
    let [packed, a, b, c, d] = *head;
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    if packed != 0 {
        return Err(Status::new(
            Code::Unimplemented,
            "packed messages are not understood",
        ));
    }
    if length > limit {
        let message = format!("a message of {length} bytes is larger than the limit of {limit}");
        return Err(Status::new(Code::ResourceExhausted, message));
    }
    if data.len() < HEAD + length {
        return Ok(None);
    }
    let rest = data.split_off(HEAD + length);
    let mut message = std::mem::replace(data, rest);
    message.drain(..HEAD);
    Ok(Some(message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_taken_whole_one_after_the_other() {
        let mut data = Vec::new();
        for text in ["one", "", "three"] {
            data.extend(head(text.len()));
            data.extend(text.bytes());
        }
        let last = data.pop().unwrap();
        assert_eq!(take(&mut data, 5).unwrap().unwrap(), b"one");
        assert_eq!(take(&mut data, 5).unwrap().unwrap(), b"");
        assert_eq!(take(&mut data, 5).unwrap(), None);
        data.push(last);
        assert_eq!(take(&mut data, 4).unwrap_err().code, Code::ResourceExhausted);
        assert_eq!(take(&mut data, 5).unwrap().unwrap(), b"three");
        assert_eq!(take(&mut data, 5).unwrap(), None);
        assert_eq!(
            take(&mut vec![1, 0, 0, 0, 0], 5).unwrap_err().code,
            Code::Unimplemented
        );
    }
}
