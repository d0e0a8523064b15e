//! Archives that nobody would write, made of a seed.

use std::collections::BTreeMap;

use image::tar::{Entry, Kind, Segment, Time};
use testkit::random::Random;

use super::{Layer, Tar, try_layer};

/// What may occur in an archive, beside files, directories and symbolic links.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// `.wh.` names.
    pub whiteouts: bool,
    /// Entries that come again, as something else maybe.
    pub duplicates: bool,
    /// Directories that are not listed.
    pub unlisted: bool,
    /// Extended attributes.
    pub xattrs: bool,
    /// A listed root.
    pub root: bool,
    /// Directories with the set-group-id bit, which some unpackers let new directories inherit.
    pub setgid: bool,
    /// Names that are no UTF-8, and some that only look odd.
    pub odd_names: bool,
    /// Devices and attributes that the kernel trusts, which layers that an ordinary user writes do without.
    pub privileged: bool,
}

impl Shape {
    pub const ALL: Shape = Shape {
        whiteouts: true,
        duplicates: true,
        unlisted: true,
        xattrs: true,
        root: true,
        setgid: true,
        odd_names: true,
        privileged: true,
    };
}

const NAMES: [&[u8]; 5] = [b"a", b"b", b"c", b"d", b".e"];
const ODD: [&[u8]; 4] = [
    b"\xff\xfe",
    b"sp ace\n",
    "n\u{e4}me-that-is-so-long-that-a-header-cannot-hold-it-in-its-field-of-a-hundred-bytes-and-needs-more"
        .as_bytes(),
    b"-\\\"",
];

/// Three layers of such archives, the base first.
pub fn layers(random: &mut Random, shape: Shape) -> Vec<Layer> {
    let mut layers: Vec<Layer> = Vec::new();
    for _ in 0..3 {
        let below: Vec<&Layer> = layers.iter().rev().collect();
        let (tar, _) = archive(random, shape, &[]);
        layers.push(try_layer(&tar, &below).expect("it holds nothing that is refused"));
    }
    layers
}

/// One archive, and the paths of what it has that is no directory. `below` are such paths of the layers below:
/// nothing goes through them unless this layer makes a directory there.
pub fn archive(random: &mut Random, shape: Shape, below: &[Vec<u8>]) -> (Vec<u8>, Vec<Vec<u8>>) {
    let mut tar = Tar::new();
    // What the layer has so far; `false` for directories.
    let mut have: BTreeMap<Vec<u8>, bool> = BTreeMap::new();
    if shape.root && random.below(2) == 0 {
        let mut entry = Entry::new("./", Kind::Directory);
        attributes(random, &mut entry, shape);
        tar = tar.put(&entry, b"");
    }
    for _ in 0..5 + random.below(30) {
        let path = path(random, shape);
        // A path through something that is no directory is another test's.
        let blocked = (1..path.len()).filter(|at| path[*at] == b'/').any(|at| {
            let prefix = &path[..at];
            match have.get(prefix) {
                Some(file) => *file,
                None => below.iter().any(|file| file == prefix),
            }
        });
        let parent = path
            .iter()
            .rposition(|byte| *byte == b'/')
            .map(|at| path[..at].to_vec());
        let orphan = !shape.unlisted && parent.is_some_and(|parent| !have.contains_key(&parent));
        let again = have.get(&path).copied();
        if blocked || orphan || (again.is_some() && !shape.duplicates) {
            continue;
        }
        let kind = random.below(if shape.whiteouts { 14 } else { 11 });
        if kind >= 11 {
            // A directory that is only there to hold a whiteout is an artifact of the format.
            let held = path.iter().rposition(|byte| *byte == b'/');
            if held.is_some_and(|at| have.get(&path[..at]) != Some(&false)) {
                continue;
            }
            let (dir, name) = match path.iter().rposition(|byte| *byte == b'/') {
                Some(at) => (path[..=at].to_vec(), path[at + 1..].to_vec()),
                None => (Vec::new(), path.clone()),
            };
            let opaque = kind == 13 && !dir.is_empty();
            let name = if opaque {
                b".wh..wh..opq".to_vec()
            } else {
                [b".wh.", name.as_slice()].concat()
            };
            tar = tar.whiteout([dir.as_slice(), &name].concat());
            list_parents(&mut have, &path);
            continue;
        }
        if kind == 10 {
            let targets: Vec<&Vec<u8>> = have
                .iter()
                .filter(|(_, file)| **file)
                .map(|(path, _)| path)
                .collect();
            let usable = |target: &&&Vec<u8>| {
                let inside = target.starts_with(&path) && target.get(path.len()) == Some(&b'/');
                let through =
                    (1..target.len()).any(|at| target[at] == b'/' && have.get(&target[..at]) == Some(&true));
                let gone = have.get(target.as_slice()) == Some(&false);
                !inside && !through && !gone
            };
            let targets: Vec<_> = targets.iter().filter(usable).collect();
            if targets.is_empty() {
                continue;
            }
            let target = random.choose(&targets).to_vec();
            if target == path {
                continue;
            }
            tar = tar.link(&path, &target);
            list_parents(&mut have, &target);
            have.insert(target, true);
        } else {
            let kind = [
                Kind::Directory,
                Kind::Directory,
                Kind::Directory,
                Kind::Symlink,
                Kind::CharDevice,
                Kind::Fifo,
            ]
            .get(kind as usize)
            .copied()
            .unwrap_or(Kind::File);
            let kind = match kind {
                Kind::CharDevice if !shape.privileged => Kind::Fifo,
                other => other,
            };
            let mut entry = Entry::new(path.clone(), kind);
            attributes(random, &mut entry, shape);
            let mut data = Vec::new();
            match kind {
                Kind::Directory => entry.name.push(b'/'),
                Kind::Symlink => {
                    entry.link = random.choose(&[&b"a"[..], b"/b", b"../../c", b"\xff"]).to_vec();
                    entry.xattrs.retain(|(name, _)| name.starts_with(b"trusted."));
                }
                Kind::CharDevice => {
                    entry.device = (1 + random.below(4000) as u32, random.below(1 << 20) as u32)
                }
                Kind::File => data = contents(random, &mut entry),
                _ => {}
            }
            if kind != Kind::File && kind != Kind::Directory {
                entry.xattrs.retain(|(name, _)| name.starts_with(b"trusted."));
            }
            tar = tar.put(&entry, &data);
        }
        list_parents(&mut have, &path);
        let directory = kind < 3;
        if directory {
            have.entry(path).and_modify(|file| *file = false).or_insert(false);
        } else {
            // It takes the place of a directory with everything in it.
            let inside = [path.as_slice(), b"/"].concat();
            have.retain(|other, _| !other.starts_with(&inside));
            have.insert(path, true);
        }
    }
    let files = have
        .into_iter()
        .filter(|(_, file)| *file)
        .map(|(path, _)| path)
        .collect();
    (tar.end(), files)
}

fn list_parents(have: &mut BTreeMap<Vec<u8>, bool>, path: &[u8]) {
    for at in (1..path.len()).filter(|at| path[*at] == b'/') {
        have.entry(path[..at].to_vec()).or_insert(false);
    }
}

fn path(random: &mut Random, shape: Shape) -> Vec<u8> {
    let components: Vec<&[u8]> = (0..=random.below(3))
        .map(|_| match shape.odd_names && random.below(8) == 0 {
            true => *random.choose(&ODD),
            false => *random.choose(&NAMES),
        })
        .collect();
    components.join(&b'/')
}

fn attributes(random: &mut Random, entry: &mut Entry, shape: Shape) {
    entry.mode = *random.choose(&[0o755, 0o644, 0o4755, 0o2750, 0o1777, 0, 0o600]);
    if !shape.setgid && entry.kind == Kind::Directory {
        entry.mode &= 0o5777;
    }
    entry.uid = *random.choose(&[0, 0, 1000, 70_000]);
    entry.gid = *random.choose(&[0, 0, 1000, 3_000_000]);
    entry.mtime = Time {
        secs: 1_600_000_000 + random.below(1_000_000) as i64,
        nanos: random.below(1_000_000_000) as u32,
    };
    if shape.xattrs && random.below(4) == 0 {
        for (name, value) in [
            (&b"trusted.k"[..], &b"v\0"[..]),
            (b"trusted.overlay.opaque", b"y"),
            (b"user.u", b""),
        ] {
            let wanted = shape.privileged || !name.starts_with(b"trusted.");
            if random.below(2) == 0 && wanted {
                entry.xattrs.push((name.to_vec(), value.to_vec()));
            }
        }
    }
}

fn contents(random: &mut Random, entry: &mut Entry) -> Vec<u8> {
    let sparse = random.below(5) == 0;
    if sparse {
        let mut at = 0;
        let mut segments = Vec::new();
        for _ in 0..random.below(4) {
            at += random.below(40) * 1024;
            // GNU tar takes a segment to begin with a block, others take it to follow the one before.
            let len = 512 * (1 + random.below(20));
            segments.push(Segment { offset: at, len });
            at += len;
        }
        if let Some(last) = segments.last_mut() {
            last.len -= random.below(512);
        }
        entry.size = at + random.below(3) * 100_000;
        entry.segments = Some(segments);
    } else {
        entry.size = *random.choose(&[0, 1, 511, 512, 5000, 300_000]);
    }
    let first = random.below(200) as u8 + 1;
    (0..entry.data_len())
        .map(|at| first.wrapping_add((at / 13) as u8).max(1))
        .collect()
}
