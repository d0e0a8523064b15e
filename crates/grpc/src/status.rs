//! [`Status`]: how a call ends.

use std::fmt;

/// gRPC's codes, by its numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum Code {
    Ok = 0,
    Cancelled = 1,
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Aborted = 10,
    OutOfRange = 11,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    DataLoss = 15,
    Unauthenticated = 16,
}

const ALL: [(Code, &str); 17] = [
    (Code::Ok, "OK"),
    (Code::Cancelled, "CANCELLED"),
    (Code::Unknown, "UNKNOWN"),
    (Code::InvalidArgument, "INVALID_ARGUMENT"),
    (Code::DeadlineExceeded, "DEADLINE_EXCEEDED"),
    (Code::NotFound, "NOT_FOUND"),
    (Code::AlreadyExists, "ALREADY_EXISTS"),
    (Code::PermissionDenied, "PERMISSION_DENIED"),
    (Code::ResourceExhausted, "RESOURCE_EXHAUSTED"),
    (Code::FailedPrecondition, "FAILED_PRECONDITION"),
    (Code::Aborted, "ABORTED"),
    (Code::OutOfRange, "OUT_OF_RANGE"),
    (Code::Unimplemented, "UNIMPLEMENTED"),
    (Code::Internal, "INTERNAL"),
    (Code::Unavailable, "UNAVAILABLE"),
    (Code::DataLoss, "DATA_LOSS"),
    (Code::Unauthenticated, "UNAUTHENTICATED"),
];

impl Code {
    /// Its name, as gRPC spells it.
    pub fn name(self) -> &'static str {
        ALL[self as usize].1
    }

    /// The code with this number; one that nobody knows is `Unknown`, as gRPC has it.
    pub fn from_number(number: u32) -> Code {
        let found = usize::try_from(number).ok().and_then(|number| ALL.get(number));
        found.map_or(Code::Unknown, |(code, _)| *code)
    }
}

/// How a call ended, with a sentence where it failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// What kind of end.
    pub code: Code,
    /// What concerns whom.
    pub message: String,
}

impl Status {
    /// A status of this kind.
    pub fn new(code: Code, message: impl Into<String>) -> Status {
        Status {
            code,
            message: message.into(),
        }
    }

    /// The good end.
    pub fn ok() -> Status {
        Status::new(Code::Ok, "")
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.name(), self.message)
    }
}

impl std::error::Error for Status {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_stands_at_its_number() {
        for (place, (code, _)) in ALL.iter().enumerate() {
            assert_eq!(*code as usize, place);
            assert_eq!(Code::from_number(place as u32), *code);
        }
        assert_eq!(Code::from_number(99), Code::Unknown);
    }
}
