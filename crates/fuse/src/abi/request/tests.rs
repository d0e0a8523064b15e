use proptest::prelude::*;

use super::*;

/// A request as the kernel lays it out, with `extensions` bytes of extensions at its end.
fn build(opcode: u32, body: &[u8], extensions: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(((IN_HEADER + body.len() + extensions) as u32).to_ne_bytes());
    bytes.extend(opcode.to_ne_bytes());
    bytes.extend(77u64.to_ne_bytes());
    bytes.extend(5u64.to_ne_bytes());
    bytes.extend([1000u32, 1001, 4242].map(u32::to_ne_bytes).as_flattened());
    bytes.extend(((extensions / 8) as u16).to_ne_bytes());
    bytes.extend([0; 2]);
    bytes.extend(body);
    // Of a type that is not known, one after the other.
    for _ in 0..extensions / 8 {
        bytes.extend([8u32, 77].map(u32::to_ne_bytes).as_flattened());
    }
    bytes
}

#[test]
fn a_header_and_a_name() {
    let bytes = build(opcode::LOOKUP, b"etc\0", 0);
    let request = Request::decode(&bytes, true).unwrap();
    assert_eq!(
        (request.unique, request.node, request.uid, request.gid),
        (77, 5, 1000, 1001)
    );
    assert!(matches!(request.operation, Operation::Lookup { name } if name == "etc"));
    assert_eq!(Request::unique_of(&bytes), Some(77));
}

#[test]
fn names_that_are_none() {
    for name in [&b""[..], b"a", b"\0", b"a/b\0", b".\0", b"..\0"] {
        assert_eq!(
            Request::decode(&build(opcode::UNLINK, name, 0), true).unwrap_err(),
            DecodeError::Name
        );
    }
}

#[test]
fn extensions_are_no_part_of_the_names() {
    let body = [
        &[0u32, 0o644, 0o22, 0].map(u32::to_ne_bytes).concat()[..],
        b"new\0",
    ]
    .concat();
    let bytes = build(opcode::MKNOD, &body, 16);
    let Operation::MkNod {
        name, rdev, umask, ..
    } = Request::decode(&bytes, true).unwrap().operation
    else {
        panic!("not a MKNOD");
    };
    assert_eq!((name.to_str(), rdev, umask), (Some("new"), 0o644, 0o22));
    let mut longer = build(opcode::LOOKUP, b"x\0", 0);
    longer[36..38].copy_from_slice(&100u16.to_ne_bytes());
    assert_eq!(Request::decode(&longer, true).unwrap_err(), DecodeError::Short);
}

#[test]
fn the_group_of_the_directory_is_an_extension() {
    let build = |extension: &[u32]| {
        let mut bytes = build(opcode::SYMLINK, b"name\0target\0", 8);
        bytes.extend(extension.iter().flat_map(|word| word.to_ne_bytes()));
        let length = bytes.len() as u32;
        bytes[..4].copy_from_slice(&length.to_ne_bytes());
        bytes[36] += extension.len() as u8 / 2;
        bytes
    };
    let group = |extension: &[u32]| Request::decode(&build(extension), true).map(|request| request.group);
    assert_eq!(group(&[]), Ok(None));
    assert_eq!(group(&[16, 32, 1, 50]), Ok(Some(50)));
    assert_eq!(group(&[16, 32, 0, 0]), Ok(None));
    assert_eq!(group(&[8, 32]), Err(DecodeError::Short));
    assert_eq!(group(&[4000, 5]), Err(DecodeError::Short));
    assert_eq!(group(&[0, 5, 0, 5]), Ok(None));
}

#[test]
fn both_forms_of_setxattr() {
    let head = [4u32, 1].map(u32::to_ne_bytes).concat();
    let tail = b"user.a\0data";
    let short = build(opcode::SETXATTR, &[&head[..], tail].concat(), 0);
    let long = build(
        opcode::SETXATTR,
        &[&head[..], &[1, 0, 0, 0, 0, 0, 0, 0], tail].concat(),
        0,
    );
    for (bytes, is_long) in [(short, false), (long, true)] {
        let Operation::SetXattr {
            name,
            value,
            flags,
            kill_sgid,
        } = Request::decode(&bytes, is_long).unwrap().operation
        else {
            panic!("not a SETXATTR");
        };
        assert_eq!(
            (name.to_str(), value, flags, kill_sgid),
            (Some("user.a"), &b"data"[..], 1, is_long)
        );
    }
}

#[test]
fn a_batch_of_forgets_is_as_long_as_it_says() {
    let mut body = [2u32, 0].map(u32::to_ne_bytes).concat();
    body.extend([3u64, 1, 4, 2].map(u64::to_ne_bytes).as_flattened());
    let bytes = build(opcode::BATCH_FORGET, &body, 0);
    let Operation::BatchForget(forgets) = Request::decode(&bytes, true).unwrap().operation else {
        panic!("not a BATCH_FORGET");
    };
    assert_eq!(forgets.collect::<Vec<_>>(), [(3, 1), (4, 2)]);
    let many = [u32::MAX, 0].map(u32::to_ne_bytes).concat();
    assert_eq!(
        Request::decode(&build(opcode::BATCH_FORGET, &many, 0), true).unwrap_err(),
        DecodeError::Short
    );
}

#[test]
fn the_first_request_of_an_older_kernel_is_shorter() {
    let old = [7u32, 31, 131_072, 1].map(u32::to_ne_bytes).concat();
    let new = [7u32, 45, 131_072, 1 | 1 << 30, 1 << 5]
        .map(u32::to_ne_bytes)
        .concat();
    let flags = |body: &[u8]| match Request::decode(&build(opcode::INIT, body, 0), false)
        .unwrap()
        .operation
    {
        Operation::Init(init) => init.flags,
        _ => panic!("not an INIT"),
    };
    assert_eq!(flags(&old), 1);
    assert_eq!(flags(&new), 1 | 1 << 30 | 1 << 37);
}

proptest! {
    /// Whatever arrives is decoded or refused.
    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), long: bool) {
        let _ = Request::decode(&bytes, long);
        let _ = Request::unique_of(&bytes);
    }

    /// The same behind a true header, which gets further.
    #[test]
    fn no_body_makes_it_panic(
        number in 0u32..60,
        body in prop::collection::vec(any::<u8>(), 0..200),
        cut in 0usize..240,
        long: bool,
    ) {
        let bytes = build(number, &body, 0);
        if let Ok(Request { operation: Operation::BatchForget(forgets), .. }) = Request::decode(&bytes, long) {
            prop_assert!(forgets.count() * 16 <= body.len());
        }
        let _ = Request::decode(&bytes[..cut.min(bytes.len())], long);
    }
}
