//! Layers that mean harm or are damaged: each is refused by the name of the entry, or does no harm. Every unpacking
//! here checks that nothing beside the layer's directory was touched (`support::try_layer`). Needs root.

mod support;

use std::fs;
use std::io::{Read, Write};
use std::path::Path;

use image::tar::{Entry, Kind, Segment};
use image::unpack::{Limits, unpack};
use mount::Mount;
use support::random::{Shape, archive};
use support::*;
use sys::Dir;
use testkit::random::Random;

/// Unpacks and expects an error that has all of these words in it.
fn refused(tar: Tar, below: &[&Layer], words: &[&str]) {
    refused_bytes(&tar.end(), below, words);
}

fn refused_bytes(archive: &[u8], below: &[&Layer], words: &[&str]) {
    match try_layer(archive, below) {
        Ok(_) => panic!("must be refused: {words:?}"),
        Err(error) => has(&chain(&error), words),
    }
}

fn has(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "{text:?} does not say {word:?}");
    }
}

#[test]
fn names_that_leave_the_layer() {
    for name in [
        "../outside",
        "..",
        "a/../../outside",
        "/../outside",
        "./../outside",
        "../fs/x",
    ] {
        let words = [&format!("{name:?}"), "leaves the layer"];
        refused(Tar::new().file(name, "evil"), &[], &words);
        refused(Tar::new().dir(name, 0o777), &[], &["leaves the layer"]);
        refused(Tar::new().symlink(name, "x"), &[], &words);
        refused(
            Tar::new().whiteout(format!("{name}/.wh.outside")),
            &[],
            &["leaves the layer"],
        );
        refused(
            Tar::new().file("f", "").link("x", name),
            &[],
            &["\"x\"", "leaves the layer"],
        );
    }
}

#[test]
fn absolute_names_stay_inside() {
    let outside = tempfile::tempdir().unwrap();
    let victim = outside.path().join("victim");
    fs::write(&victim, "untouched").unwrap();
    let name = victim.to_str().unwrap();
    let layer = layer(Tar::new().file(name, "inside").link("linked", name), &[]);
    assert_eq!(fs::read_to_string(&victim).unwrap(), "untouched");
    assert_eq!(fs::read_to_string(layer.at(&name[1..])).unwrap(), "inside");
}

#[test]
fn links_that_point_out() {
    // Each of these would reach the file `outside` beside the layer, if links were taken at their word.
    let layer = layer(
        Tar::new()
            .symlink("up", "..")
            .file("up/outside", "1")
            .symlink("root", "/")
            .file("root/outside2", "2")
            .symlink("far", "../../../../../../../../../../tmp")
            .file("far/x", "3")
            .symlink("p", "/proc/self/root")
            .file("p/y", "4")
            .symlink("file", "../outside")
            .file("file", "replaced, not followed")
            .symlink("s", "../outside")
            .link("h", "s")
            .file("h", "replaced, not followed"),
        &[],
    );
    let text = |name: &str| fs::read_to_string(layer.at(name)).unwrap();
    assert_eq!(
        (
            text("outside").as_str(),
            text("outside2").as_str(),
            text("tmp/x").as_str()
        ),
        ("1", "2", "3")
    );
    assert_eq!(text("proc/self/root/y"), "4");
    assert!(layer.at("s").is_symlink() && !layer.at("h").is_symlink());
}

#[test]
fn hard_links_to_what_is_not_in_the_layer() {
    refused(
        Tar::new().link("x", "outside"),
        &[],
        &["\"x\"", "\"outside\"", "no such file"],
    );
    refused(Tar::new().link("x", "/outside"), &[], &["no such file"]);
    refused(Tar::new().link("x", "/etc/passwd"), &[], &["no such file"]);
    refused(
        Tar::new().symlink("up", "..").link("x", "up/outside"),
        &[],
        &["\"x\"", "no such file"],
    );
    refused(
        Tar::new().symlink("up", "/etc").link("x", "up/passwd"),
        &[],
        &["no such file"],
    );
    refused(
        Tar::new().dir("d", 0o755).link("x", "d"),
        &[],
        &["\"x\"", "that is a directory"],
    );
    refused(Tar::new().link("x", "x"), &[], &["no such file"]);
    refused(Tar::new().link("x", "."), &[], &["layer's root"]);
    refused(Tar::new().link("x", ""), &[], &["layer's root"]);
    refused(
        Tar::new().dir("d", 0o755).file("d/f", "").link("d", "d/f"),
        &[],
        &["\"d\"", "hard link"],
    );
    let below = layer(Tar::new().dir("d", 0o755).symlink("up", ".."), &[]);
    refused(Tar::new().link("x", "d"), &[&below], &["that is a directory"]);
    refused(Tar::new().link("x", "up/outside"), &[&below], &["no such file"]);
}

#[test]
fn ways_that_do_not_end() {
    refused(
        Tar::new().symlink("a", "b").symlink("b", "a").file("a/f", ""),
        &[],
        &["\"a/f\"", "too many symbolic links"],
    );
    refused(
        Tar::new().symlink("a", "a/a").file("a/f", ""),
        &[],
        &["too many symbolic links"],
    );
    refused(
        Tar::new().file("f", "").file("f/g", ""),
        &[],
        &["\"f/g\"", "is no directory"],
    );
    refused(
        Tar::new().symlink("s", "f").file("f", "").file("s/g", ""),
        &[],
        &["\"s/g\"", "is no directory"],
    );
    refused(
        Tar::new().file("./", "a root with data"),
        &[],
        &["root must be a directory"],
    );
    refused(
        Tar::new().symlink("s", ""),
        &[],
        &["\"s\"", "a symbolic link to nothing"],
    );
}

#[test]
fn whiteouts_cannot_be_smuggled_in() {
    let secret = layer(
        Tar::new().dir("d", 0o755).file("d/secret", "").file("secret", ""),
        &[],
    );
    refused(
        Tar::new().device("secret", Kind::CharDevice, 0, 0),
        &[&secret],
        &["\"secret\"", "whiteout"],
    );
    // The kernel keeps 12 and 20 bits of a device number.
    refused(
        Tar::new().device("secret", Kind::CharDevice, 1 << 12, 0),
        &[&secret],
        &["4096/0 is out of range"],
    );
    refused(
        Tar::new().device("secret", Kind::CharDevice, 0, 1 << 20),
        &[&secret],
        &["0/1048576 is out of range"],
    );
    refused(
        Tar::new()
            .link("x", "secret")
            .device("secret", Kind::CharDevice, 0, 0),
        &[&secret],
        &["whiteout"],
    );
    for bad in [".wh.", ".wh..", ".wh...", "d/.wh."] {
        refused(Tar::new().whiteout(bad), &[], &["a whiteout of nothing"]);
    }
    refused(
        Tar::new().file(".wh.d/secret", ""),
        &[],
        &["\".wh.d/secret\"", "beneath a whiteout"],
    );

    let attribute = |entry: &mut Entry, name: &str, value: &[u8]| {
        entry
            .xattrs
            .push((format!("trusted.overlay.{name}").into_bytes(), value.to_vec()));
    };
    let top = layer(
        Tar::new()
            .entry(Kind::Directory, "./", |entry| {
                entry.mode = 0o755;
                attribute(entry, "opaque", b"x");
            })
            .entry(Kind::Directory, "d", |entry| {
                entry.mode = 0o755;
                attribute(entry, "opaque", b"y");
                attribute(entry, "redirect", b"/etc");
            })
            .entry(Kind::File, "f", |entry| {
                attribute(entry, "metacopy", b"");
                attribute(entry, "redirect", b"/secret");
            })
            .entry(Kind::File, "secret", |entry| attribute(entry, "whiteout", b"y")),
        &[&secret],
    );
    let merged = tempfile::tempdir().unwrap();
    let paths = [top.path(), secret.path()];
    let lowers: Vec<&Path> = paths.iter().map(|path| path.as_path()).collect();
    mount::attach(&Mount::overlay(&lowers, None, &["metacopy=on"]), merged.path()).unwrap();
    let seen = seen(merged.path());
    mount::detach(merged.path()).unwrap();
    let names: Vec<_> = seen.keys().map(|path| path.to_str().unwrap()).collect();
    assert_eq!(names, ["", "d", "d/secret", "f", "secret"]);
    // As the image has them, if the kernel shows escaped names at all (since 6.7).
    if seen[Path::new("d")].contains("trusted") {
        assert!(seen[Path::new("d")].contains("trusted.overlay.redirect=/etc"));
    }
}

#[test]
fn names_and_attributes_too_long() {
    let long = "n".repeat(256);
    refused(Tar::new().file(&long, ""), &[], &["nnn", "name too long"]);
    refused(
        Tar::new().file(format!("{long}/f"), ""),
        &[],
        &["nnn", "name too long"],
    );
    refused(
        Tar::new().file("d/".repeat(2049), ""),
        &[],
        &["the name is too long"],
    );
    refused(
        Tar::new().symlink("s", "t".repeat(5000)),
        &[],
        &["\"s\"", "name too long"],
    );
    refused(
        Tar::new().file_with("f", "", |entry| {
            entry.xattrs.push((b"user.big".to_vec(), vec![0; 70_000]))
        }),
        &[],
        &["\"f\"", "user.big"],
    );
    refused(
        Tar::new().file_with("f", "", |entry| {
            entry
                .xattrs
                .push((b"security.selinux.nonsense".to_vec(), vec![0; 70_000]))
        }),
        &[],
        &["\"f\"", "nonsense"],
    );
    let far = "t/".repeat(2000);
    refused(
        Tar::new()
            .symlink("a", &far)
            .file("a/f", "")
            .symlink("a/b", &far)
            .file("a/b/f", ""),
        &[],
        &["\"a/b/f\"", "path that is too long"],
    );
    let bomb = |entry: &mut Entry| entry.xattrs.push((b"user.bomb".to_vec(), vec![0; 2 << 20]));
    refused(
        Tar::new().file_with("f", "", bomb),
        &[],
        &["extended headers larger than 1048576 bytes"],
    );
}

#[test]
fn attributes_of_other_systems_mean_nothing() {
    let tar = Tar::new().file_with("f", "", |entry| {
        entry.xattrs.push((b"com.apple.quarantine".to_vec(), vec![0]));
        entry.xattrs.push((b"user.kept".to_vec(), vec![1]));
    });
    let layer = try_layer_within(&tar.end(), &[], &Limits::default()).unwrap();
    let dir = sys::Dir::open_ambient(layer.path()).unwrap();
    assert_eq!(dir.list_xattrs("f").unwrap(), ["user.kept"]);
}

#[test]
fn limits() {
    let mut few = Limits::default();
    few.entries = 3;
    let tar = (0..4).fold(Tar::new(), |tar, index| tar.file(format!("f{index}"), ""));
    let error = try_layer_within(&tar.end(), &[], &few).err().unwrap();
    has(&chain(&error), &["\"f3\"", "more than 3 entries"]);

    let mut small = Limits::default();
    small.bytes = 100_000;
    let error = try_layer_within(&Tar::new().file("big", vec![1; 1 << 20]).end(), &[], &small)
        .err()
        .unwrap();
    has(&chain(&error), &["\"big\"", "more than 100000 bytes"]);
    // Directories, links and replaced files are remembered to the end.
    let mut forgetful = Limits::default();
    forgetful.memory = 20_000;
    let directories = |count: usize| (0..count).fold(Tar::new(), |tar, n| tar.dir(format!("d{n}"), 0o755));
    assert!(try_layer_within(&directories(200).end(), &[], &forgetful).is_ok());
    let links = (0..300).fold(Tar::new().file("f", ""), |tar, n| tar.link(format!("l{n}"), "f"));
    let replaced = (0..900).fold(Tar::new(), |tar, _| tar.file("f", "x"));
    for tar in [directories(600), links, replaced] {
        let error = try_layer_within(&tar.end(), &[], &forgetful).err().unwrap();
        has(&chain(&error), &["directories, hard links and replaced files"]);
    }
    let zeros = [Tar::new().file("f", "").end(), vec![0; 1 << 20]].concat();
    let error = try_layer_within(&zeros, &[], &small).err().unwrap();
    has(&chain(&error), &["end of the archive", "more than 100000 bytes"]);
}

#[test]
fn a_stream_without_end_is_left_alone_once_it_is_refused() {
    let mut limits = Limits::default();
    limits.bytes = 50 << 20;
    let temp = tempfile::tempdir().unwrap();
    let into = Dir::open_ambient(temp.path()).unwrap();
    let error = unpack(
        std::io::repeat(0),
        &into,
        &none,
        std::io::sink(),
        &limits,
        &|_| (),
    )
    .unwrap_err();
    has(&chain(&error), &["more than 52428800 bytes"]);
    let error = unpack(
        std::io::repeat(7),
        &into,
        &none,
        std::io::sink(),
        &limits,
        &|_| (),
    )
    .unwrap_err();
    has(&chain(&error), &["no tar header"]);
}

#[test]
fn damaged_and_truncated_streams() {
    let whole = Tar::new()
        .file("first", vec![1; 5000])
        .file("second", vec![2; 300_000])
        .end();
    refused_bytes(&whole[..2000], &[], &["truncated", "\"first\""]);
    refused_bytes(&whole[..200_000], &[], &["truncated", "\"second\""]);
    refused_bytes(
        b"this is no archive, but it is long enough to be a header"
            .repeat(20)
            .as_slice(),
        &[],
        &["checksum"],
    );
    let mut lying = whole.clone();
    lying[124..136].copy_from_slice(b"00000011611\0");
    refused_bytes(&lying, &[], &["checksum"]);

    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let noise: Vec<u8> = (0..100_000u64)
        .map(|at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8)
        .collect();
    encoder.write_all(&Tar::new().file("noise", noise).end()).unwrap();
    let gzip = encoder.finish().unwrap();
    let temp = tempfile::tempdir().unwrap();
    let into = Dir::open_ambient(temp.path()).unwrap();
    let half = image::compression::decoder(&gzip[..gzip.len() / 2]);
    let error = unpack(half, &into, &none, std::io::sink(), &Limits::default(), &|_| ()).unwrap_err();
    has(&chain(&error), &["reading failed", "noise"]);
}

#[test]
fn sparse_files_that_lie() {
    let sparse = |size: u64, segments: &[(u64, u64)]| {
        let mut entry = entry(Kind::File, "sparse", |entry| entry.size = size);
        let segment = |(offset, len): &(u64, u64)| Segment {
            offset: *offset,
            len: *len,
        };
        entry.segments = Some(segments.iter().map(segment).collect());
        let data = vec![1; entry.data_len() as usize];
        Tar::new().put(&entry, &data)
    };
    refused(
        sparse(1000, &[(0, 600), (500, 100)]),
        &[],
        &["\"sparse\"", "overlap"],
    );
    refused(sparse(1000, &[(900, 600)]), &[], &["\"sparse\"", "exceeds"]);
    refused(sparse(u64::MAX >> 1, &[]), &[], &["\"sparse\"", "File too large"]);
}

#[test]
fn replaced_links_do_not_multiply_data() {
    let noise: Vec<u8> = (0..1_000_000u64)
        .map(|at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8)
        .collect();
    let mut tar = Tar::new().file("data", noise);
    for round in 0..3 {
        for index in 0..100 {
            tar = tar.link(format!("d{round}/l{index}"), "data");
        }
        tar = tar.file(format!("d{round}"), "");
    }
    let layer = layer(tar, &[]);
    assert!(layer.record().metadata().unwrap().len() < 100_000);
}

#[test]
fn a_full_disk_names_the_file() {
    let temp = tempfile::tempdir().unwrap();
    let tmpfs = Mount {
        kind: "tmpfs".into(),
        source: "tmpfs".into(),
        options: vec!["size=1m".into()],
    };
    mount::attach(&tmpfs, temp.path()).unwrap();
    let into = Dir::open_ambient(temp.path()).unwrap();
    let tar = Tar::new().file("small", "").file("large", vec![1; 2 << 20]).end();
    let result = unpack(
        &tar[..],
        &into,
        &none,
        std::io::sink(),
        &Limits::default(),
        &|_| (),
    );
    drop(into);
    mount::detach(temp.path()).unwrap();
    has(&chain(&result.unwrap_err()), &["\"large\"", "No space left"]);
}

#[test]
fn a_record_that_cannot_be_written_fails_the_layer() {
    struct Full;
    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::Error::from(std::io::ErrorKind::StorageFull))
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let temp = tempfile::tempdir().unwrap();
    let into = Dir::open_ambient(temp.path()).unwrap();
    let tar = Tar::new().file("f", "").end();
    let error = unpack(&tar[..], &into, &none, Full, &Limits::default(), &|_| ()).unwrap_err();
    has(&chain(&error), &["record", "no storage space"]);
}

#[test]
fn random_damage_does_no_harm() {
    let mut unpacked = 0;
    for seed in 0..120 {
        let mut random = Random::new(seed);
        let (mut tar, _) = archive(&mut random, Shape::ALL, &[]);
        let headers: Vec<usize> = (0..tar.len())
            .step_by(512)
            .filter(|at| tar[*at + 257..].starts_with(b"ustar"))
            .collect();
        for _ in 0..1 + random.below(6) {
            let header = *random.choose(&headers);
            let field = random.choose(&[0..20, 100..108, 108..116, 124..136, 156..157, 157..180, 329..345]);
            let at = header + field.start + random.below(field.len() as u64) as usize;
            tar[at] = *random.choose(b"./.0127w\0\xff");
            let block = &mut tar[header..header + 512];
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
        if let Err(error) = try_layer(&tar, &[]) {
            assert!(!chain(&error).is_empty());
        } else {
            unpacked += 1;
        }
    }
    assert!(
        unpacked > 10,
        "only {unpacked} of the damaged archives still made sense"
    );
}

#[test]
fn records_that_are_damaged_or_newer_are_refused() {
    let layer = layer(
        Tar::new().file("f", "data").file("f", "more").dir("d", 0o755),
        &[],
    );
    let mut record = Vec::new();
    layer.record().read_to_end(&mut record).unwrap();
    let rebuild = |record: &[u8]| {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(record).unwrap();
        image::record::rebuild(&layer.dir(), &file, std::io::sink())
    };
    rebuild(&record).unwrap();
    for len in 0..record.len() {
        assert!(
            rebuild(&record[..len]).is_err(),
            "{len} of {} bytes",
            record.len()
        );
    }
    for at in 0..record.len() {
        let mut damaged = record.clone();
        damaged[at] ^= 0x11;
        if let Ok(digest) = rebuild(&damaged) {
            assert_eq!(digest, layer.unpacked.diff_id, "byte {at}");
        }
    }
    let mut newer = record.clone();
    newer[24] = 2;
    has(&chain(&rebuild(&newer).unwrap_err()), &["newer"]);
    newer[24] = 1;
    newer[36] = 1;
    has(&chain(&rebuild(&newer).unwrap_err()), &["newer", "0x1"]);

    fs::write(layer.at("f"), "less").unwrap();
    has(
        &chain(&rebuild(&record).unwrap_err()),
        &["f: the layer's file was changed"],
    );
    fs::remove_file(layer.at("f")).unwrap();
    has(
        &chain(&rebuild(&record).unwrap_err()),
        &["f: reading the layer's file failed", "No such file"],
    );
}
