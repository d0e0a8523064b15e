//! The reader against archives of GNU tar, of our own writer, and of nobody's.

use std::io::BufReader;
use std::path::Path;
use std::process::Command;

use proptest::prelude::*;

use super::writer::{END, data_padding, write_header};
use super::*;

const LIMIT: usize = 1 << 20;

/// Reads a whole archive, and checks that raw bytes and data in their order are the archive. `step` is how much of
/// it the reader sees at once.
fn read(archive: &[u8], step: usize) -> Result<Vec<(Entry, Vec<u8>)>, TarError> {
    let mut reader = Reader::new(BufReader::with_capacity(step, archive), LIMIT);
    let mut rebuilt = Vec::new();
    let mut entries = Vec::new();
    loop {
        let entry = reader.next()?;
        rebuilt.append(reader.raw());
        let Some(entry) = entry else { break };
        let mut data = Vec::new();
        loop {
            let piece = reader.data()?;
            if piece.is_empty() {
                break;
            }
            data.extend_from_slice(piece);
            let len = piece.len();
            reader.consume(len);
        }
        rebuilt.extend_from_slice(&data);
        entries.push((entry, data));
    }
    while reader.trailer()? {
        rebuilt.append(reader.raw());
    }
    assert!(rebuilt == archive, "raw bytes and data are not the archive");
    Ok(entries)
}

fn write(entries: &[(Entry, Vec<u8>)]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (entry, data) in entries {
        write_header(entry, &mut archive);
        archive.extend_from_slice(data);
        archive.extend_from_slice(data_padding(data.len() as u64));
    }
    archive.extend_from_slice(&END);
    archive
}

fn file(name: &str, data: &[u8]) -> (Entry, Vec<u8>) {
    let mut entry = Entry::new(name, Kind::File);
    entry.size = data.len() as u64;
    (entry, data.to_vec())
}

/// Recomputes the checksum of the block at `at` after a test has changed it.
fn reseal(archive: &mut [u8], at: usize) {
    let block = &mut archive[at..at + BLOCK];
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

fn message(archive: &[u8]) -> String {
    read(archive, 512).expect_err("must be refused").to_string()
}

fn gnu_tar(dir: &Path, arguments: &[&str]) -> Vec<u8> {
    let output = Command::new("tar")
        .current_dir(dir)
        .args(arguments)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

#[test]
fn every_dialect_of_gnu_tar() {
    let temp = tempfile::tempdir().unwrap();
    let long = format!("d/{}", "n".repeat(180));
    let target = "t/".repeat(90);
    std::fs::create_dir(temp.path().join("d")).unwrap();
    std::fs::File::create(temp.path().join(&long)).unwrap();
    std::os::unix::fs::symlink(&target, temp.path().join("d/link")).unwrap();
    std::fs::hard_link(temp.path().join(&long), temp.path().join("d/z")).unwrap();
    for format in ["gnu", "oldgnu", "pax", "ustar", "v7"] {
        // ustar and v7 cannot say long names and links at all.
        let short = matches!(format, "ustar" | "v7");
        let names: &[&str] = if short { &["d/z"] } else { &["d"] };
        let flag = format!("--format={format}");
        let mut arguments = vec![
            "-c",
            "--sort=name",
            "--mtime=@1700000000.25",
            "--numeric-owner",
            &flag,
        ];
        arguments.extend(names);
        let archive = gnu_tar(temp.path(), &arguments);
        for step in [1, 511, 512, 4096, 1 << 20] {
            let entries = read(&archive, step).unwrap();
            let seen: Vec<_> = entries
                .iter()
                .map(|(entry, _)| (shown(&entry.name), entry.kind, shown(&entry.link)))
                .collect();
            let nanos = if format == "pax" { 250_000_000 } else { 0 };
            for (entry, _) in &entries {
                assert_eq!(
                    entry.mtime,
                    Time {
                        secs: 1_700_000_000,
                        nanos
                    }
                );
            }
            if short {
                assert_eq!(seen, [("d/z".into(), Kind::File, "".into())]);
            } else {
                assert_eq!(
                    seen,
                    [
                        ("d/".into(), Kind::Directory, "".into()),
                        ("d/link".into(), Kind::Symlink, target.clone()),
                        (long.clone(), Kind::File, "".into()),
                        ("d/z".into(), Kind::HardLink, long.clone()),
                    ]
                );
            }
        }
    }
}

fn shown(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn every_sparse_form_of_gnu_tar() {
    use std::os::unix::fs::FileExt;
    let temp = tempfile::tempdir().unwrap();
    let sparse = std::fs::File::create(temp.path().join("sparse")).unwrap();
    // Enough segments that the old form needs extension blocks.
    for index in 0..40u64 {
        sparse
            .write_all_at(&[index as u8 + 1; 4096], index * 3 * 4096 + 4096)
            .unwrap();
    }
    sparse.set_len(1 << 20).unwrap();
    let content = std::fs::read(temp.path().join("sparse")).unwrap();
    for form in [
        &["--format=gnu"][..],
        &["--format=pax", "--sparse-version=0.0"],
        &["--format=pax", "--sparse-version=0.1"],
        &["--format=pax", "--sparse-version=1.0"],
    ] {
        let archive = gnu_tar(temp.path(), &[&["-c", "-S"], form, &["sparse"]].concat());
        assert!(archive.len() < 300_000, "tar did not see the holes");
        let entries = read(&archive, 512).unwrap();
        let [(entry, data)] = entries.as_slice() else {
            panic!("one entry")
        };
        assert_eq!(
            (shown(&entry.name).as_str(), entry.size),
            ("sparse", 1 << 20),
            "{form:?}"
        );
        let mut rebuilt = vec![0; entry.size as usize];
        let mut data = data.as_slice();
        for segment in entry.segments.as_ref().unwrap() {
            let (piece, rest) = data.split_at(segment.len as usize);
            rebuilt[segment.offset as usize..][..piece.len()].copy_from_slice(piece);
            data = rest;
        }
        assert!(rebuilt == content, "{form:?}");
        // And what we write of it, GNU tar reads.
        let ours = write(&entries);
        assert_eq!(read(&ours, 4096).unwrap(), entries);
        let out = tempfile::tempdir().unwrap();
        std::fs::write(out.path().join("a.tar"), &ours).unwrap();
        gnu_tar(out.path(), &["-x", "-f", "a.tar"]);
        assert!(std::fs::read(out.path().join("sparse")).unwrap() == content);
    }
}

#[test]
fn ends_and_what_follows_them() {
    let whole = write(&[file("a", b"data")]);
    let entry = &whole[..2 * BLOCK];
    let one = |archive: &[u8]| {
        for step in [512, 513, 4096] {
            assert_eq!(read(archive, step).unwrap().len(), 1);
        }
    };
    one(&whole);
    one(entry);
    one(&[entry, &[0; BLOCK]].concat());
    one(&[&whole[..], b"garbage that is no block"].concat());
    one(&[&whole[..], &[7; 5000]].concat());
    one(&[&whole[..], &whole].concat());
    one(&entry[..BLOCK + 4]);
    assert_eq!(read(b"", 512).unwrap(), []);
    assert_eq!(read(&END, 512).unwrap(), []);
    assert!(message(&[entry, &[0; BLOCK], entry].concat()).contains("single block of zeros"));
}

#[test]
fn truncation_is_an_error_wherever_it_falls() {
    let mut entry = file("file", &[1; 700]);
    entry.0.xattrs = vec![(b"user.k".to_vec(), vec![2; 600])];
    let archive = write(&[entry]);
    let end_of_data = archive.len() - END.len() - 324;
    for len in 1..end_of_data {
        let error = read(&archive[..len], 512).expect_err("truncated");
        assert!(matches!(error, TarError::Truncated { .. }), "{len}: {error}");
        assert!(error.to_string().contains("truncated"));
    }
    read(&archive[..end_of_data], 512).unwrap();
}

#[test]
fn malformed_headers_are_named() {
    let archive = |change: &dyn Fn(&mut [u8])| {
        let mut archive = write(&[file("some/name", b"data")]);
        change(&mut archive[..BLOCK]);
        reseal(&mut archive, 0);
        archive
    };
    let refused = |change: &dyn Fn(&mut [u8]), expected: &str| {
        let message = message(&archive(change));
        assert!(message.contains(expected), "{message}");
        assert!(message.contains("some/name"), "{message}");
    };
    refused(
        &|block| block[124..136].copy_from_slice(b"-0000000004\0"),
        "malformed size",
    );
    refused(&|block| block[124..136].fill(0xff), "size is out of range");
    refused(
        &|block| block[124..136].copy_from_slice(b"\x80\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff"),
        "malformed size",
    );
    refused(
        &|block| block[108..116].copy_from_slice(b"\x80\0\0\x01\0\0\0\0"),
        "owner 4294967296 is out of range",
    );
    refused(
        &|block| block[116..124].copy_from_slice(b"\x80\0\0\0\xff\xff\xff\xff"),
        "group 4294967295 is out of range",
    );
    refused(&|block| block[108..116].fill(0xff), "owner -1 is out of range");
    refused(
        &|block| block[136..148].copy_from_slice(b"yesterday...\0".first_chunk().unwrap() as &[u8; 12]),
        "malformed time",
    );
    refused(&|block| block[156] = b'M', "type 'M'");
    refused(&|block| block[156] = b'S', "not GNU's");
    let mut broken = write(&[file("some/name", b"data")]);
    broken[0] = b'x';
    assert!(message(&broken).contains("checksum"));
}

#[test]
fn extended_headers_are_bounded() {
    let mut entry = file("bomb", b"");
    entry.0.xattrs = vec![(b"user.k".to_vec(), vec![2; LIMIT])];
    assert!(message(&write(&[entry])).contains("extended headers larger than"));
    // Said to be large, without being so: refused before anything is kept.
    let mut archive = write(&[file("lie", b"")]);
    archive[156] = b'x';
    archive[124..136].copy_from_slice(b"77777777777\0");
    reseal(&mut archive, 0);
    assert!(message(&archive).contains("extended headers larger than"));
    // Many small ones.
    let mut long_name = write(&[file("n", &[b'n'; 512])]);
    long_name[156] = b'L';
    reseal(&mut long_name, 0);
    long_name.truncate(2 * BLOCK);
    assert!(message(&long_name.repeat(2000)).contains("extended headers larger than"));
}

#[test]
fn sparse_maps_that_lie() {
    let sparse = |size: u64, segments: &[(u64, u64)]| {
        let mut entry = Entry::new("sparse", Kind::File);
        entry.size = size;
        let segment = |&(offset, len): &(u64, u64)| Segment { offset, len };
        entry.segments = Some(segments.iter().map(segment).collect());
        let data = vec![7; entry.data_len() as usize];
        write(&[(entry, data)])
    };
    assert_eq!(read(&sparse(100, &[(10, 20), (40, 60)]), 512).unwrap().len(), 1);
    for (size, segments, expected) in [
        (100, &[(10, 20), (20, 20)][..], "overlap"),
        (100, &[(50, 20), (10, 20)], "out of order"),
        (100, &[(90, 20)], "exceeds"),
        (100, &[(101, 0)], "exceeds"),
    ] {
        let message = message(&sparse(size, segments));
        assert!(
            message.contains(expected) && message.contains("sparse"),
            "{message}"
        );
    }
    // A map of less data than there is.
    let mut archive = sparse(100, &[(10, 20)]);
    let map = archive
        .windows(6)
        .position(|window| window == b"10\n20\n")
        .unwrap();
    archive[map + 3] = b'1';
    assert!(message(&archive).contains("sparse map of 10 bytes for 20 bytes of data"));
    archive[map + 3] = b'x';
    assert!(message(&archive).contains("malformed sparse map"));
}

#[test]
fn the_prefix_that_old_go_wrote() {
    let mut archive = write(&[file("name", b"")]);
    archive[257..265].copy_from_slice(b"ustar  \0");
    archive[345..345 + 16].copy_from_slice(b"some/long/prefix");
    reseal(&mut archive, 0);
    assert_eq!(read(&archive, 512).unwrap()[0].0.name, b"some/long/prefix/name");
    archive[345..500].fill(0);
    archive[345..357].copy_from_slice(b"14371573015\0");
    reseal(&mut archive, 0);
    assert_eq!(read(&archive, 512).unwrap()[0].0.name, b"name");
}

#[test]
fn global_headers_say_owner_and_times_and_never_a_name_or_a_size() {
    let mut archive = Vec::new();
    let mut text = Vec::new();
    for (key, value) in [
        ("uid", "77"),
        ("mtime", "12.5"),
        ("path", "other"),
        ("size", "9999"),
        ("comment", "x"),
    ] {
        pax::write_record(&mut text, key.as_bytes(), value.as_bytes());
    }
    let (mut global, _) = file("pax_global_header", &text);
    write_header(&global, &mut archive);
    global.size = 0;
    archive[156] = b'g';
    reseal(&mut archive, 0);
    archive.extend_from_slice(&text);
    archive.extend_from_slice(data_padding(text.len() as u64));
    archive.extend(write(&[file("name", b"data"), file("next", b"")]));
    let entries = read(&archive, 512).unwrap();
    assert_eq!(entries.len(), 2);
    for (entry, _) in &entries {
        assert_eq!(
            (entry.uid, entry.mtime),
            (
                77,
                Time {
                    secs: 12,
                    nanos: 500_000_000
                }
            )
        );
    }
    assert_eq!(entries[0], {
        let mut expected = file("name", b"data");
        expected.0.uid = 77;
        expected.0.mtime = entries[0].0.mtime;
        expected
    });
}

#[test]
fn only_files_have_data() {
    // A size in the header of what has no data is not followed by any, as in Go.
    for (flag, kind) in [
        (b'1', Kind::HardLink),
        (b'2', Kind::Symlink),
        (b'5', Kind::Directory),
        (b'6', Kind::Fifo),
    ] {
        let mut archive = write(&[(Entry::new("first", Kind::File), Vec::new()), file("second", b"")]);
        archive[156] = flag;
        archive[124..136].copy_from_slice(b"00000001000\0");
        reseal(&mut archive, 0);
        let entries = read(&archive, 512).unwrap();
        assert_eq!((entries.len(), entries[0].0.kind), (2, kind));
    }
}

fn entries() -> impl Strategy<Value = Vec<(Entry, Vec<u8>)>> {
    let name = proptest::collection::vec(1u8..=255, 1..300)
        .prop_filter("a directory's name", |name| !name.ends_with(b"/"));
    let time = (any::<i32>(), 0..1_000_000_000u32);
    let attribute = (
        proptest::collection::vec(1u8..=255, 1..20),
        proptest::collection::vec(any::<u8>(), 0..40),
    );
    let attributes = proptest::collection::btree_map(
        attribute
            .0
            .prop_filter("ends the key", |name| !name.contains(&b'=')),
        attribute.1,
        0..3,
    );
    let kinds = [
        Kind::File,
        Kind::HardLink,
        Kind::Symlink,
        Kind::CharDevice,
        Kind::BlockDevice,
        Kind::Directory,
        Kind::Fifo,
    ];
    let entry = (
        name.clone(),
        proptest::sample::select(kinds.to_vec()),
        name,
        0..0o10000u32,
        (0..u32::MAX, 0..u32::MAX),
        time,
        attributes,
        proptest::collection::vec((0..2000u64, 1..2000u64), 0..6),
        any::<bool>(),
    );
    let entry = entry.prop_map(|(name, kind, link, mode, owner, time, xattrs, runs, sparse)| {
        let mut entry = Entry::new(name, kind);
        entry.mode = mode;
        (entry.uid, entry.gid) = owner;
        entry.mtime = Time {
            secs: time.0.into(),
            nanos: time.1,
        };
        entry.xattrs = xattrs.into_iter().collect();
        if matches!(kind, Kind::HardLink | Kind::Symlink) {
            entry.link = link;
        }
        if matches!(kind, Kind::CharDevice | Kind::BlockDevice) {
            entry.device = (mode, mode * 100);
        }
        if kind == Kind::File {
            let mut at = 0;
            let mut segments = Vec::new();
            for (hole, len) in runs {
                segments.push(Segment {
                    offset: at + hole,
                    len,
                });
                at += hole + len;
            }
            entry.size = at;
            entry.segments = sparse.then_some(segments);
        }
        let data = (0..entry.data_len()).map(|at| at as u8).collect();
        (entry, data)
    });
    proptest::collection::vec(entry, 0..6)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read(entries in entries(), step in 1usize..3000) {
        prop_assert_eq!(read(&write(&entries), step).unwrap(), entries);
    }

    #[test]
    fn nothing_makes_the_reader_panic(entries in entries(), changes in proptest::collection::vec((any::<u16>(), any::<u8>()), 1..8)) {
        let mut archive = write(&entries);
        let blocks = archive.len() / BLOCK;
        for (at, byte) in changes {
            let at = usize::from(at) % archive.len();
            archive[at] = byte;
        }
        let _ = read(&archive, 512);
        for block in 0..blocks {
            reseal(&mut archive, block * BLOCK);
        }
        let _ = read(&archive, 700);
    }
}
