//! The wire layer under requests that nobody should send: a kept corpus of well-formed requests, one for each operation,
//! is changed at random, and whatever comes of it is decoded or refused. Nothing panics, and nothing that a request
//! gives out lies outside of its bytes.
//!
//! `STRATA_FUZZ_SECONDS=600 cargo test -p strata-fuse --release --test wire` does so for as long as one likes. What it
//! finds is kept in the corpus, as a line of its own.

#![allow(clippy::print_stdout, reason = "a seed that is not printed is of no use")]

use std::time::{Duration, Instant};

use fuse::abi::{DecodeError, IN_HEADER, Operation, Request};

/// A line a request: its name, the number of its operation, then its body after the header in hex; in `#` a comment.
const CORPUS: &str = include_str!("corpus");

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .chars()
        .filter(|char| !char.is_whitespace())
        .map(|char| char.to_digit(16).expect("hex digits") as u8)
        .collect();
    let (pairs, []) = digits.as_chunks::<2>() else {
        panic!("half a byte: {text}")
    };
    pairs.iter().map(|[high, low]| high << 4 | low).collect()
}

/// A request as the kernel lays it out.
fn request(opcode: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = ((IN_HEADER + body.len()) as u32).to_ne_bytes().to_vec();
    bytes.extend(opcode.to_ne_bytes());
    bytes.extend(77u64.to_ne_bytes());
    bytes.extend(5u64.to_ne_bytes());
    bytes.extend([1000u32, 1001, 4242, 0].map(u32::to_ne_bytes).as_flattened());
    bytes.extend(body);
    bytes
}

/// Name, number and bytes of every request of the corpus.
fn corpus() -> Vec<(&'static str, u32, Vec<u8>)> {
    let lines = CORPUS
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    let read = |line: &'static str| {
        let mut words = line.splitn(3, ' ');
        let name = words.next().expect("a name");
        let opcode = words.next().and_then(|word| word.parse().ok());
        let opcode = opcode.expect("a number");
        (name, opcode, request(opcode, &unhex(words.next().unwrap_or(""))))
    };
    lines.map(read).collect()
}

/// Decodes, and looks at all that came of it.
fn try_it(bytes: &[u8], long_setxattr: bool) -> Result<(), DecodeError> {
    let inside = |part: &[u8]| {
        let range = bytes.as_ptr_range();
        assert!(
            part.is_empty() || range.contains(&part.as_ptr()),
            "a part lies elsewhere"
        );
        assert!(part.len() <= bytes.len());
    };
    let request = Request::decode(bytes, long_setxattr);
    if bytes.len() >= 16 {
        assert!(Request::unique_of(bytes).is_some(), "it can be answered");
    }
    let request = request?;
    assert_eq!(Request::unique_of(bytes), Some(request.unique));
    match request.operation {
        Operation::BatchForget(forgets) => assert!(forgets.count() * 16 <= bytes.len()),
        Operation::Write { data, .. } => inside(data),
        Operation::SetXattr { name, value, .. } => {
            inside(name.as_encoded_bytes());
            inside(value);
        }
        Operation::Lookup { name }
        | Operation::Unlink { name }
        | Operation::RmDir { name }
        | Operation::Create { name, .. }
        | Operation::MkDir { name, .. }
        | Operation::MkNod { name, .. }
        | Operation::Symlink { name, .. } => {
            inside(name.as_encoded_bytes());
            assert!(!name.is_empty() && name != "." && name != "..");
            assert!(!name.as_encoded_bytes().contains(&b'/') && !name.as_encoded_bytes().contains(&0));
        }
        _ => {}
    }
    Ok(())
}

/// Steele and Vigna's splitmix64: as good as it must be.
struct Dice(u64);

impl Dice {
    fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, end: usize) -> usize {
        (self.number() % end.max(1) as u64) as usize
    }
}

/// Numbers at which lengths and counts go wrong.
const ODD: [u64; 10] = [
    0,
    1,
    39,
    40,
    41,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    1 << 63,
    u64::MAX,
];

/// Changes a request a little, and a few times.
fn change(dice: &mut Dice, bytes: &mut Vec<u8>, other: &[u8]) {
    for _ in 0..=dice.below(4) {
        let at = dice.below(bytes.len());
        match dice.below(8) {
            0 => bytes.truncate(at),
            1 => bytes.extend(std::iter::repeat_n(dice.number() as u8, dice.below(64))),
            2 => drop(bytes.splice(at.., other[at.min(other.len())..].iter().copied())),
            3 if bytes.len() > at + 8 => {
                let odd = ODD[dice.below(ODD.len())].to_ne_bytes();
                let wide = if dice.below(2) == 0 { 4 } else { 8 };
                bytes[at..at + wide].copy_from_slice(&odd[..wide]);
            }
            4 if bytes.len() > 4 => {
                // The header agrees again with what there is.
                let length = (bytes.len() as u32).to_ne_bytes();
                bytes[..4].copy_from_slice(&length);
            }
            5 if bytes.len() > 38 => bytes[36] = dice.below(6) as u8,
            6 if at < bytes.len() => drop(bytes.remove(at)),
            _ if at < bytes.len() => bytes[at] ^= 1 << dice.below(8),
            _ => {}
        }
    }
}

#[test]
fn the_corpus_is_understood() {
    let corpus = corpus();
    for (name, opcode, bytes) in &corpus {
        let request = Request::decode(bytes, true).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!((request.unique, request.opcode), (77, *opcode), "{name}");
        let shown = format!("{:?}", request.operation).to_lowercase();
        assert!(shown.starts_with(*name), "{name} is read as {shown}");
        try_it(bytes, true).unwrap();
    }
    assert!(corpus.len() >= 40, "each operation is there");
}

/// What a read that came back short brings is refused, at every length; a request without a number has no answer.
#[test]
fn a_request_that_is_cut_off_is_refused() {
    for (name, _, bytes) in corpus() {
        for length in 0..bytes.len() {
            let cut = &bytes[..length];
            assert_eq!(try_it(cut, true), Err(DecodeError::Short), "{name} at {length}");
            assert_eq!(Request::unique_of(cut).is_some(), length >= 16);
        }
    }
}

/// Numbers that are not known are no error of the wire: they are answered ENOSYS.
#[test]
fn operations_of_later_kernels() {
    for opcode in [0, 7, 19, 31, 54, 4096, 1 << 20, u32::MAX] {
        let bytes = request(opcode, b"anything");
        let decoded = Request::decode(&bytes, true).unwrap();
        assert!(matches!(decoded.operation, Operation::Other), "{opcode}");
    }
}

#[test]
fn whatever_arrives_is_decoded_or_refused() {
    let seconds = std::env::var("STRATA_FUZZ_SECONDS");
    let seconds = seconds.map_or(1, |text| text.parse().expect("a number of seconds"));
    let started = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let seed = match std::env::var("STRATA_SEED") {
        Ok(seed) => seed.parse().expect("STRATA_SEED is a number"),
        Err(_) => started.expect("a time after 1970").as_nanos() as u64,
    };
    println!("STRATA_SEED={seed}");
    let corpus = corpus();
    let mut dice = Dice(seed);
    let deadline = Instant::now() + Duration::from_secs(seconds);
    let (mut tried, mut refused) = (0u64, 0u64);
    while Instant::now() < deadline {
        for (_, _, bytes) in &corpus {
            let mut bytes = bytes.clone();
            let other = &corpus[dice.below(corpus.len())].2;
            change(&mut dice, &mut bytes, other);
            let long = dice.below(2) == 0;
            let result = std::panic::catch_unwind(|| try_it(&bytes, long));
            let Ok(result) = result else {
                let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                panic!("a request of {} bytes, long setxattr {long}: {hex}", bytes.len());
            };
            tried += 1;
            refused += u64::from(result.is_err());
        }
    }
    println!("{tried} requests, {refused} refused");
    assert!(
        refused > 0 && refused < tried,
        "it must get past the header, and find fault: {refused} of {tried}"
    );
}
