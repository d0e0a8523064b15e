//! A worker at one end of a pair of sockets, the kernel played at the other.

use overlay::live::{Layers, Options, Overlay};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::*;
use crate::abi::opcode;
use crate::abi::reply::Timeouts;
use crate::serve::backing::Backings;
use crate::serve::long::Helpers;

/// A worker for an empty directory, and the other end of its connection.
fn worker() -> (Worker, OwnedFd) {
    let dir = tempfile::tempdir().unwrap();
    let layers = Layers {
        lower: vec![sys::Dir::open_ambient(dir.path()).unwrap()],
        upper: None,
        work: None,
    };
    let shared = Shared {
        overlay: Overlay::new(layers, Options::default()).unwrap(),
        agreed: InitFlags::SETXATTR_EXT,
        handles: Default::default(),
        unopened: Default::default(),
        ahead: Default::default(),
        helpers: Helpers::new(None),
        device: rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap(),
        backings: Backings::new(false),
        timeouts: Timeouts {
            entry: Duration::ZERO,
            attr: Duration::ZERO,
        },
        no_open: false,
        no_acl: false,
        no_xattrs: false,
        identity: Vec::new(),
        lingering: false,
        awake: Default::default(),
        ended: rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap(),
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (ours, kernel) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
    (Worker::new(ours, Arc::new(shared)), kernel)
}

fn request(opcode: u32, node: u64, body: &[u8]) -> Vec<u8> {
    let mut bytes = ((IN_HEADER + body.len()) as u32).to_ne_bytes().to_vec();
    bytes.extend(opcode.to_ne_bytes());
    bytes.extend(77u64.to_ne_bytes());
    bytes.extend(node.to_ne_bytes());
    bytes.extend([0u8; 16]);
    bytes.extend(body);
    bytes
}

/// The errno of the answer to a request, or `None` where there is no answer.
fn answer(worker: &mut Worker, kernel: &OwnedFd, bytes: &[u8]) -> Option<i32> {
    let place = worker.requests.get_mut(BEGIN, BEGIN + bytes.len());
    place.copy_from_slice(bytes);
    worker.answer(bytes.len());
    let mut reply = [0u8; 8192];
    match rustix::io::read(kernel, &mut reply) {
        Err(Errno::AGAIN) => None,
        length => {
            let length = length.unwrap();
            let number = |at: usize| i32::from_ne_bytes(reply[at..at + 4].try_into().unwrap());
            assert_eq!(number(0) as usize, length, "its header says how long it is");
            assert_eq!(reply[8..16], 77u64.to_ne_bytes());
            Some(-number(4))
        }
    }
}

#[test]
fn what_cannot_be_decoded_is_answered_eio() {
    let (mut worker, kernel) = worker();
    let whole = request(opcode::LOOKUP, 1, b"name\0");
    // A name that is missing is a success without a node.
    assert_eq!(answer(&mut worker, &kernel, &whole), Some(0));
    for length in 0..whole.len() {
        let expected = (length >= 16).then(|| Errno::IO.raw_os_error());
        assert_eq!(
            answer(&mut worker, &kernel, &whole[..length]),
            expected,
            "{length} bytes"
        );
    }
    for name in [&b"a/b\0"[..], b"\0", b"..\0", b"endless"] {
        let bad = request(opcode::LOOKUP, 1, name);
        assert_eq!(answer(&mut worker, &kernel, &bad), Some(Errno::IO.raw_os_error()));
    }
}

#[test]
fn what_is_not_known_is_answered_enosys() {
    let (mut worker, kernel) = worker();
    for opcode in [0, 7, 54, u32::MAX] {
        let bytes = request(opcode, 1, b"anything");
        assert_eq!(
            answer(&mut worker, &kernel, &bytes),
            Some(Errno::NOSYS.raw_os_error())
        );
    }
}

#[test]
fn nodes_and_handles_that_were_never_given_out() {
    let (mut worker, kernel) = worker();
    let handle = |opcode, rest: usize| request(opcode, 1, &[&[9u8; 8][..], &vec![0; rest]].concat());
    let cases = [
        (request(opcode::GETATTR, 999, &[0; 16]), Errno::STALE),
        (request(opcode::LOOKUP, 999, b"name\0"), Errno::STALE),
        (handle(opcode::READ, 32), Errno::BADF),
        (handle(opcode::FALLOCATE, 32), Errno::BADF),
        (handle(opcode::FSYNC, 8), Errno::BADF),
    ];
    for (bytes, errno) in &cases {
        assert_eq!(
            answer(&mut worker, &kernel, bytes),
            Some(errno.raw_os_error()),
            "{errno}"
        );
    }
    // No answer is waited for, and none is given.
    let forget = request(opcode::FORGET, 999, &u64::MAX.to_ne_bytes());
    assert_eq!(answer(&mut worker, &kernel, &forget), None);
}
