//! What gRPC says in headers: the path of a call, its time, what goes with it, and how it ended.

use std::time::Duration;

use crate::hpack::{self, Field};
use crate::status::{Code, Status};

/// The longest sentence of a status that is sent.
const LONGEST: usize = 4096;

/// What a request's headers say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) path: String,
    pub(crate) timeout: Option<Duration>,
    pub(crate) metadata: Vec<Field>,
}

/// Reads a request's headers.
///
/// # Errors
/// Why it is no request of gRPC's that can be served.
pub(crate) fn request(fields: Vec<Field>) -> Result<Request, Status> {
    let mut request = Request::default();
    let (mut post, mut grpc) = (false, false);
    for (name, value) in fields {
        match name.as_str() {
            ":method" => post = value == "POST",
            ":path" => request.path = value,
            "content-type" => grpc = value.starts_with("application/grpc"),
            "grpc-timeout" => {
                let timeout = timeout(&value).ok_or_else(|| {
                    Status::new(
                        Code::InvalidArgument,
                        format!("grpc-timeout {value:?} is no time"),
                    )
                })?;
                request.timeout = Some(timeout);
            }
            "grpc-encoding" if value != "identity" => {
                let message = format!("messages packed with {value} are not understood");
                return Err(Status::new(Code::Unimplemented, message));
            }
            name if name.starts_with(':') || name == "te" => {}
            _ => request.metadata.push((name, value)),
        }
    }
    match post && grpc && request.path.starts_with('/') {
        true => Ok(request),
        false => Err(Status::new(Code::Internal, "this is no call of gRPC's")),
    }
}

/// `TimeoutValue TimeoutUnit` of gRPC: at most eight digits, and a letter.
fn timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

/// A time as gRPC spells it.
pub(crate) fn spell_timeout(time: Duration) -> String {
    match time.as_millis() {
        millis @ 0..100_000_000 => format!("{millis}m"),
        _ => format!("{}S", time.as_secs().min(99_999_999)),
    }
}

/// The block that a request begins with.
pub(crate) fn put_request(out: &mut Vec<u8>, path: &str, timeout: Duration, metadata: &[(&str, &str)]) {
    hpack::put(out, ":method", "POST");
    hpack::put(out, ":scheme", "http");
    hpack::put(out, ":path", path);
    hpack::put(out, ":authority", "localhost");
    hpack::put(out, "te", "trailers");
    hpack::put(out, "content-type", "application/grpc");
    hpack::put(out, "grpc-timeout", &spell_timeout(timeout));
    for (name, value) in metadata {
        hpack::put(out, name, value);
    }
}

/// The block that an answer begins with.
pub(crate) fn put_response(out: &mut Vec<u8>) {
    hpack::put(out, ":status", "200");
    hpack::put(out, "content-type", "application/grpc");
}

/// The block that an answer ends with.
pub(crate) fn put_status(out: &mut Vec<u8>, status: &Status) {
    hpack::put(out, "grpc-status", &(status.code as u8).to_string());
    if !status.message.is_empty() {
        hpack::put(out, "grpc-message", &percent(&status.message));
    }
}

/// How a call ended, by the last headers of its answer; `None` where they do not say.
pub(crate) fn status(fields: &[Field]) -> Option<Status> {
    let get = |wanted: &str| {
        fields
            .iter()
            .find(|(name, _)| name == wanted)
            .map(|(_, value)| value)
    };
    let code = Code::from_number(get("grpc-status")?.parse().ok()?);
    Some(Status::new(
        code,
        get("grpc-message")
            .map(|text| unpercent(text))
            .unwrap_or_default(),
    ))
}

/// A sentence as `grpc-message` carries it: anything but printable ASCII by its bytes.
fn percent(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
        if out.len() >= LONGEST {
            break;
        }
    }
    out
}

fn unpercent(text: &str) -> String {
    let (bytes, mut out, mut at) = (text.as_bytes(), Vec::new(), 0);
    while at < bytes.len() {
        let code = text.get(at + 1..at + 3).filter(|_| bytes[at] == b'%');
        match code.and_then(|code| u8::from_str_radix(code, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_as_grpc_spells_them() {
        for (text, wanted) in [
            ("1H", Some(3_600_000)),
            ("2M", Some(120_000)),
            ("99999999S", Some(99_999_999_000)),
            ("5m", Some(5)),
            ("4000u", Some(4)),
            ("3000000n", Some(3)),
            ("999999999S", None),
            ("S", None),
            ("", None),
            ("1x", None),
            ("-1S", None),
            ("1é", None),
        ] {
            assert_eq!(timeout(text), wanted.map(Duration::from_millis), "{text}");
        }
        for time in [0, 1, 99_999_999, 100_000_000] {
            let time = Duration::from_millis(time);
            assert_eq!(timeout(&spell_timeout(time)), Some(time));
        }
    }

    #[test]
    fn sentences_survive_whatever_they_hold() {
        for text in ["", "a snapshot", "100% \"of\" naïve\nlines\0", "%zz%4"] {
            assert_eq!(unpercent(&percent(text)), text);
            assert!(percent(text).bytes().all(|b| (b' '..=b'~').contains(&b)));
        }
        assert!(percent(&"é".repeat(10_000)).len() < LONGEST + 3);
    }

    #[test]
    fn a_request_is_known_by_its_headers() {
        let fields = |extra: &[(&str, &str)]| {
            let mut block = Vec::new();
            put_request(&mut block, "/a.B/C", Duration::from_secs(3), extra);
            hpack::Decoder::new().decode(&block, 1 << 16).unwrap()
        };
        let known = request(fields(&[("containerd-namespace", "k8s.io")])).unwrap();
        assert_eq!(known.path, "/a.B/C");
        assert_eq!(known.timeout, Some(Duration::from_secs(3)));
        assert_eq!(known.metadata, [("containerd-namespace".into(), "k8s.io".into())]);
        let refused = |extra| request(fields(&[extra])).unwrap_err().code;
        assert_eq!(refused(("grpc-timeout", "soon")), Code::InvalidArgument);
        assert_eq!(refused(("grpc-encoding", "gzip")), Code::Unimplemented);
        assert_eq!(refused((":method", "GET")), Code::Internal);
        assert_eq!(refused(("content-type", "text/html")), Code::Internal);
    }
}
