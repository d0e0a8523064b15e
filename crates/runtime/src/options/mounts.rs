//! `-v`, `--mount` and `--tmpfs`: what the user wants mounted in the container.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::volumes::{self, VolumeOption};
use super::{Flag, Result, boolean, container_path, csv, limits};

/// One mount that the user asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountOption {
    /// Where it goes: absolute, without `.` and `..`.
    pub destination: PathBuf,
    /// What is mounted there.
    pub kind: MountKind,
    /// Options in the words of the OCI runtime spec (`ro`, `rbind`, `rprivate`, `size=…`), in the user's order,
    /// with the defaults of the kind where the user chose none.
    pub options: Vec<String>,
    /// SELinux relabelling (`z`, `Z`) was asked for. Without SELinux on the host it means nothing.
    pub relabel: bool,
    /// With the label of this container alone (`Z`), and not with one that containers share.
    #[serde(default)]
    pub private_label: bool,
}

/// What a [`MountOption`] mounts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountKind {
    /// A file or directory of the host, by absolute path.
    Bind {
        /// The host's path.
        source: PathBuf,
    },
    /// A fresh file system in memory.
    Tmpfs,
}

/// What `-v` or `--mount` asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// Something of the host's, or a fresh file system in memory.
    Mount(MountOption),
    /// A volume.
    Volume(VolumeOption),
}

const VOLUME_FORM: &str =
    "write HOST-PATH:CONTAINER-PATH[:OPTION,…], as /srv/www:/www:ro, or NAME:CONTAINER-PATH";
const MOUNT_FORM: &str = "write type=bind,source=PATH,target=PATH[,readonly][,bind-propagation=rslave], type=volume,source=NAME,target=PATH or type=tmpfs,target=PATH[,tmpfs-size=64m]";
const TMPFS_FORM: &str = "write CONTAINER-PATH[:OPTION,…], as /run:size=64m,mode=1777,exec";
const NO_IMAGES: &str = "copy them out: strata create IMAGE, then strata cp CONTAINER:PATH .";
const WHOLE: &str = "mount the whole volume, and use a directory in it";
const HOME: &str = "the shell expands ~ at the beginning of a word alone: write $HOME";
const OWN_OWNER: &str = "chown the directory before, or give --user its owner's number";
const OWN_OVERLAY: &str = "give it read-only (ro), or as the root: --rootfs DIR";

const PROPAGATION: [&str; 6] = ["private", "rprivate", "shared", "rshared", "slave", "rslave"];

/// Options that come in pairs, one of which holds.
const PAIRS: [[&str; 2]; 4] = [
    ["exec", "noexec"],
    ["suid", "nosuid"],
    ["dev", "nodev"],
    ["ro", "rw"],
];

/// When a file's time of access is written, as docker takes it for a tmpfs; of these the last one holds.
const TIMES: [&str; 8] = [
    "atime",
    "noatime",
    "diratime",
    "nodiratime",
    "relatime",
    "norelatime",
    "strictatime",
    "nostrictatime",
];

/// Parses `-v`/`--volume`: `HOST-PATH:CONTAINER-PATH[:OPTIONS]`, `NAME:CONTAINER-PATH[:OPTIONS]` for a volume, or
/// `CONTAINER-PATH` for one without a name.
///
/// A host path beginning with `.` is relative to `cwd`, which must be absolute. A backslash before a colon makes the
/// colon part of the path, as podman has it. Without options the bind is recursive, writable and private.
///
/// # Errors
/// Anything that is not of the form.
pub fn volume(value: &str, cwd: &Path) -> Result<Asked> {
    let flag = Flag::new("--volume", value, VOLUME_FORM);
    let parts = split_colons(value);
    let (source, destination, options) = match parts.as_slice() {
        [destination] => {
            let destination = target(&flag, destination)?;
            return Ok(Asked::Volume(VolumeOption::anonymous(destination)));
        }
        [source, destination] => (source, destination, ""),
        [source, destination, options] => (source, destination, options.as_str()),
        _ => {
            return Err(flag.wrong(format!(
                "{} parts between colons, at most 3 make sense",
                parts.len()
            )));
        }
    };
    if source.is_empty() {
        return Err(flag.wrong("the host path before the first colon is empty"));
    }
    let source = if source.starts_with('/') {
        PathBuf::from(source)
    } else if source == "." || source == ".." || source.starts_with("./") || source.starts_with("../") {
        // Components leave out what is of no use: "./x" is "x".
        cwd.join(source).components().collect()
    } else if source.starts_with('~') {
        return Err(flag.instead(format!("{source:?} is no name of a volume"), HOME));
    } else {
        let words = options.split(',').filter(|word| !word.is_empty());
        let volume = VolumeOption {
            name: Some(volumes::name(&flag, source)?),
            copy: !words.clone().any(|word| word == "nocopy"),
            destination: target(&flag, destination)?,
            ..VolumeOption::default()
        };
        return finish_volume(&flag, volume, words.filter(|word| *word != "copy"));
    };
    let destination = target(&flag, destination)?;
    let mut mount = MountOption {
        destination,
        kind: MountKind::Bind { source },
        options: Vec::new(),
        relabel: false,
        private_label: false,
    };
    for word in options.split(',').filter(|word| !word.is_empty()) {
        bind_word(&flag, &mut mount, word)?;
    }
    finish_bind(&flag, mount, true).map(Asked::Mount)
}

/// A volume with the words of its mount, which are those of a bind.
fn finish_volume<'a>(
    flag: &Flag<'_>,
    volume: VolumeOption,
    words: impl Iterator<Item = &'a str>,
) -> Result<Asked> {
    let mut mount = MountOption {
        destination: volume.destination.clone(),
        kind: MountKind::Bind {
            source: PathBuf::new(),
        },
        options: Vec::new(),
        relabel: false,
        private_label: false,
    };
    for word in words {
        bind_word(flag, &mut mount, word)?;
    }
    let bound = finish_bind(flag, mount, true)?;
    Ok(Asked::Volume(VolumeOption {
        options: bound.options,
        relabel: bound.relabel,
        private_label: bound.private_label,
        ..volume
    }))
}

/// Parses `--mount`: comma-separated `key=value`, CSV quoting for a path with a comma.
///
/// # Errors
/// An unknown type or key, a key of another type, a missing target or source.
pub fn mount(value: &str, cwd: &Path) -> Result<Asked> {
    let flag = Flag::new("--mount", value, MOUNT_FORM);
    let mut kind = None;
    let mut source: Option<String> = None;
    let mut destination = None;
    let mut words = Vec::new();
    let mut tmpfs = Vec::new();
    let mut binding = Vec::new();
    let mut kept = VolumeOption {
        copy: true,
        ..VolumeOption::default()
    };
    // The first key that is about volumes.
    let mut of_volume = None;
    let mut below = true;
    for field in csv(&flag)? {
        let (key, text) = match field.split_once('=') {
            Some((key, text)) => (key.trim().to_ascii_lowercase(), Some(text.trim().to_owned())),
            None => (field.trim().to_ascii_lowercase(), None),
        };
        let needed = || {
            text.clone()
                .filter(|t| !t.is_empty())
                .ok_or_else(|| flag.wrong(format!("{key} needs a value")))
        };
        let switch = || match &text {
            None => Ok(true),
            Some(t) => boolean(t).ok_or_else(|| flag.wrong(format!("{key}={t:?} is neither true nor false"))),
        };
        match key.as_str() {
            "type" => kind = Some(needed()?),
            "source" | "src" => source = Some(needed()?),
            "target" | "destination" | "dst" => destination = Some(target(&flag, &needed()?)?),
            "readonly" | "ro" => words.push(if switch()? { "ro" } else { "rw" }.to_owned()),
            "rw" => words.push(if switch()? { "rw" } else { "ro" }.to_owned()),
            "exec" | "noexec" | "suid" | "nosuid" | "dev" | "nodev" if text.is_none() => words.push(key),
            "bind-propagation" => {
                let how = needed()?;
                if !PROPAGATION.contains(&how.as_str()) {
                    return Err(flag.wrong(format!(
                        "bind-propagation={how:?} is none of {}",
                        PROPAGATION.join(", ")
                    )));
                }
                binding.push(how);
            }
            "bind-nonrecursive" => binding.push(if switch()? { "bind" } else { "rbind" }.to_owned()),
            "bind-recursive" => binding.push(match needed()?.as_str() {
                "enabled" => "rbind".to_owned(),
                "writable" => {
                    below = false;
                    "rbind".to_owned()
                }
                "disabled" => "bind".to_owned(),
                "readonly" => "rro".to_owned(),
                how => {
                    return Err(flag.wrong(format!(
                        "bind-recursive={how:?} is none of enabled, disabled, writable, readonly"
                    )));
                }
            }),
            "relabel" => match needed()?.as_str() {
                "shared" => binding.push("z".to_owned()),
                "private" => binding.push("Z".to_owned()),
                how => return Err(flag.wrong(format!("relabel={how:?} is neither shared nor private"))),
            },
            "consistency" => match needed()?.as_str() {
                // They speak of Docker Desktop's file sharing; on Linux all are the same.
                "default" | "consistent" | "cached" | "delegated" => {}
                how => {
                    return Err(flag.wrong(format!(
                        "consistency={how:?} is none of default, consistent, cached, delegated"
                    )));
                }
            },
            "tmpfs-size" => tmpfs.push(format!("size={}", limits::bytes(&flag, &needed()?)?)),
            "tmpfs-mode" => tmpfs.push(format!("mode={}", octal(&flag, &needed()?)?)),
            "tmpcopyup" | "notmpcopyup" if text.is_none() => tmpfs.push(key),
            "u" | "chown" => {
                return Err(flag.instead("changing the owner of the source is not supported", OWN_OWNER));
            }
            "volume-subpath" | "subpath" => {
                return Err(flag.instead(format!("{key} is not supported"), WHOLE));
            }
            "volume-nocopy" => {
                kept.copy = !switch()?;
                of_volume.get_or_insert(key);
            }
            "volume-label" | "volume-opt" => {
                let needed = needed()?;
                let (name, text) = needed.split_once('=').unwrap_or((&needed, ""));
                let all = match key.as_str() {
                    "volume-label" => &mut kept.labels,
                    _ => &mut kept.made_with,
                };
                all.insert(name.to_owned(), text.to_owned());
                of_volume.get_or_insert(key);
            }
            "volume-driver" => {
                let driver = needed()?;
                if driver != "local" {
                    return Err(flag.wrong(format!("volume-driver={driver:?}: there is local alone")));
                }
                of_volume.get_or_insert(key);
            }
            other => return Err(flag.wrong(format!("{other:?} is not a key that --mount knows"))),
        }
    }
    let destination = destination.ok_or_else(|| flag.wrong("target is missing"))?;
    if let (Some(key), Some("bind" | "tmpfs")) = (&of_volume, kind.as_deref()) {
        return Err(flag.wrong(format!("{key} belongs to type=volume")));
    }
    match kind.as_deref() {
        Some("bind") => {
            if let Some(word) = tmpfs.first() {
                return Err(flag.wrong(format!("{word:?} belongs to type=tmpfs")));
            }
            let source = source.ok_or_else(|| flag.wrong("source is missing"))?;
            let source = if source.starts_with('/') {
                source.into()
            } else {
                cwd.join(source).components().collect()
            };
            let mut mount = MountOption {
                destination,
                kind: MountKind::Bind { source },
                options: Vec::new(),
                relabel: false,
                private_label: false,
            };
            for word in words.iter().chain(&binding) {
                bind_word(&flag, &mut mount, word)?;
            }
            finish_bind(&flag, mount, below).map(Asked::Mount)
        }
        Some("tmpfs") => {
            if source.is_some() {
                return Err(flag.wrong("a tmpfs has no source"));
            }
            if let Some(word) = binding.first() {
                return Err(flag.wrong(format!("{word:?} belongs to type=bind")));
            }
            // Not to copy is what happens in any case.
            words.extend(tmpfs.into_iter().filter(|word| word != "notmpcopyup"));
            finish_tmpfs(&flag, destination, words).map(Asked::Mount)
        }
        Some("volume") | None => {
            if let Some(word) = tmpfs.first() {
                return Err(flag.wrong(format!("{word:?} belongs to type=tmpfs")));
            }
            if let Some(word) = binding.first() {
                return Err(flag.wrong(format!("{word:?} belongs to type=bind")));
            }
            if let Some(path) = source.as_deref().filter(|source| source.starts_with(['/', '.'])) {
                return Err(flag.instead(
                    format!("{path:?} is a path, and volume is what --mount means unless it is told"),
                    "write type=bind",
                ));
            }
            kept.name = source.map(|source| volumes::name(&flag, &source)).transpose()?;
            kept.destination = destination;
            finish_volume(&flag, kept, words.iter().map(String::as_str))
        }
        Some("image") => Err(flag.instead("strata mounts no images into containers", NO_IMAGES)),
        Some(other) => Err(flag.wrong(format!("type {other:?} is none of bind, volume and tmpfs"))),
    }
}

/// Parses `--tmpfs`: `CONTAINER-PATH[:OPTIONS]` with `size=`, `mode=`, `uid=`, `gid=`, `nr_inodes=`, `nr_blocks=`,
/// `ro`, `rw`, `tmpcopyup`, when access is recorded (`noatime`, …), and `exec`, `suid`, `dev` with their opposites. Without options: `nosuid,nodev,noexec`, and the
/// kernel's size (half the memory).
///
/// # Errors
/// Anything that is not of the form.
pub fn tmpfs(value: &str) -> Result<MountOption> {
    let flag = Flag::new("--tmpfs", value, TMPFS_FORM);
    let (path, options) = value.split_once(':').unwrap_or((value, ""));
    let destination = target(&flag, path)?;
    let mut words = Vec::new();
    for word in options.split(',').filter(|word| !word.is_empty()) {
        words.push(match word.split_once('=') {
            Some(("size", "")) | Some(("mode", "")) => {
                return Err(flag.wrong(format!("{word:?} has no value")));
            }
            // A percentage is the kernel's to read.
            Some(("size", size)) if size.ends_with('%') && size[..size.len() - 1].parse::<u8>().is_ok() => {
                word.to_owned()
            }
            Some(("size", size)) => format!("size={}", limits::bytes(&flag, size)?),
            Some(("mode", mode)) => format!("mode={}", octal(&flag, mode)?),
            Some((key @ ("uid" | "gid" | "nr_inodes" | "nr_blocks"), number)) => {
                let digits = number.trim_end_matches(['k', 'K', 'm', 'M', 'g', 'G']);
                let plain = matches!(key, "uid" | "gid");
                if digits.parse::<u64>().is_err() || (plain && digits != number) {
                    return Err(flag.wrong(format!("{key}={number:?} is not a number")));
                }
                word.to_owned()
            }
            // Podman's: what the image has there is copied in; docker's way, and the way here without it, is not to.
            None if word == "tmpcopyup" => word.to_owned(),
            None if word == "notmpcopyup" => continue,
            None if PAIRS.as_flattened().contains(&word) || TIMES.contains(&word) => word.to_owned(),
            _ => return Err(flag.wrong(format!("{word:?} is not an option of a tmpfs"))),
        });
    }
    finish_tmpfs(&flag, destination, words)
}

fn target(flag: &Flag<'_>, text: &str) -> Result<PathBuf> {
    let path = container_path(text)
        .ok_or_else(|| flag.wrong(format!("{text:?} is no absolute path in the container")))?;
    if path == Path::new("/") {
        return Err(flag.instead(
            "nothing can be mounted over the container's root",
            "choose a directory below it",
        ));
    }
    Ok(path)
}

/// One word of a bind's options.
fn bind_word(flag: &Flag<'_>, mount: &mut MountOption, word: &str) -> Result<()> {
    match word {
        "z" | "Z" => {
            mount.relabel = true;
            mount.private_label = word == "Z";
        }
        // Docker Desktop's words, and a named volume's; neither means anything for a bind on Linux.
        "cached" | "delegated" | "consistent" | "nocopy" => {}
        "bind" | "rbind" | "rro" => mount.options.push(word.to_owned()),
        word if PROPAGATION.contains(&word) || PAIRS.as_flattened().contains(&word) => {
            mount.options.push(word.to_owned())
        }
        "U" => {
            return Err(flag.instead("U (changing the owner of the source) is not supported", OWN_OWNER));
        }
        "O" => return Err(flag.instead("O (an overlay over the source) is not supported", OWN_OVERLAY)),
        word if word == "idmap" || word.starts_with("idmap=") => {
            return Err(flag.instead("idmap is not supported", OWN_OWNER));
        }
        word => return Err(flag.wrong(format!("{word:?} is not an option of a bind mount"))),
    }
    Ok(())
}

/// Fills in what the user left open. A read-only recursive bind is read-only all the way down (`rro`), as docker has
/// it since 25, unless `bind-recursive=writable` set `below` to false.
fn finish_bind(flag: &Flag<'_>, mut mount: MountOption, below: bool) -> Result<MountOption> {
    refuse_conflicts(flag, &mount.options)?;
    let has = |words: &[&str]| mount.options.iter().any(|o| words.contains(&o.as_str()));
    if has(&["rro"]) && has(&["bind", "rw"]) {
        return Err(flag.wrong("a bind read-only all the way down is recursive and read-only"));
    }
    let (recursion, propagation) = (!has(&["bind", "rbind"]), !has(&PROPAGATION));
    let all_the_way = has(&["ro"]) && !has(&["bind", "rro"]) && below;
    if recursion {
        mount.options.insert(0, "rbind".to_owned());
    }
    if all_the_way {
        mount.options.push("rro".to_owned());
    }
    if propagation {
        mount.options.push("rprivate".to_owned());
    }
    Ok(mount)
}

fn finish_tmpfs(flag: &Flag<'_>, destination: PathBuf, mut options: Vec<String>) -> Result<MountOption> {
    refuse_conflicts(flag, &options)?;
    for [on, off] in &PAIRS[..3] {
        if !options.iter().any(|o| o == on || o == off) {
            options.push((*off).to_owned());
        }
    }
    Ok(MountOption {
        destination,
        kind: MountKind::Tmpfs,
        options,
        relabel: false,
        private_label: false,
    })
}

fn refuse_conflicts(flag: &Flag<'_>, options: &[String]) -> Result<()> {
    let has = |word: &str| options.iter().any(|o| o == word);
    for [one, other] in PAIRS.iter().chain(&[["bind", "rbind"]]) {
        if has(one) && has(other) {
            return Err(flag.wrong(format!("{one} and {other} exclude each other")));
        }
    }
    let mut how = options.iter().filter(|o| PROPAGATION.contains(&o.as_str()));
    if let (Some(one), Some(other)) = (how.next(), how.next()) {
        return Err(flag.wrong(format!("{one} and {other} exclude each other")));
    }
    Ok(())
}

fn octal(flag: &Flag<'_>, text: &str) -> Result<String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o7777 => Ok(format!("{mode:o}")),
        _ => Err(flag.wrong(format!("mode {text:?} is not an octal number up to 7777"))),
    }
}

/// Splits at colons, a backslash before one keeping it.
fn split_colons(value: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut chars = value.chars().peekable();
    while let Some(c) = chars.next() {
        let last = parts.len() - 1;
        match c {
            '\\' if chars.peek() == Some(&':') => {
                chars.next();
                parts[last].push(':');
            }
            ':' => parts.push(String::new()),
            c => parts[last].push(c),
        }
    }
    parts
}

#[cfg(test)]
mod tests;
