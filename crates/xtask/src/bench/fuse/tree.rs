//! The layers that are measured on: a disk of their own, the same for all.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// How many layers lie below the writable one.
pub(super) const LAYERS: usize = 5;

/// How much there is of everything.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size {
    /// Files of the tree that is walked.
    pub(super) files: usize,
    /// Files that are looked at, read, unpacked and removed.
    pub(super) some: usize,
    /// Files of the git repository.
    pub(super) repository: usize,
    /// Sources that are compiled.
    pub(super) sources: usize,
    /// Bytes of the file that is read and written.
    pub(super) data: usize,
    /// Bytes of the file that is copied up.
    pub(super) copied: usize,
}

impl Size {
    pub(super) const FULL: Size = Size {
        files: 50_000,
        some: 20_000,
        repository: 5_000,
        sources: 30,
        data: 256 << 20,
        copied: 1 << 30,
    };
    pub(super) const QUICK: Size = Size {
        files: 10_000,
        some: 4_000,
        repository: 1_000,
        sources: 6,
        data: 64 << 20,
        copied: 256 << 20,
    };
}

/// An ext4 of its own, mounted, whose file has no name any more: nothing is left of it whatever happens.
pub(super) struct Disk {
    at: PathBuf,
}

impl Disk {
    pub(super) fn make(dir: &Path) -> Result<Disk> {
        let (image, at) = (dir.join("disk"), dir.join("on-disk"));
        File::create(&image)?.set_len(12 << 30)?;
        fs::create_dir(&at)?;
        run(Command::new("mkfs.ext4")
            .args(["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"])
            .args(["-N", "1000000"])
            .arg(&image))?;
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&at))?;
        fs::remove_file(&image)?;
        Ok(Disk { at })
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = sys::mount::detach_at(&self.at);
    }
}

/// What the works need to know of the layers.
pub(super) struct Tree {
    pub(super) size: Size,
    /// Where disk space for writable directories is.
    pub(super) room: PathBuf,
    /// Topmost first.
    pub(super) layers: Vec<PathBuf>,
    /// Names some of the tree's files, one a line.
    pub(super) list: PathBuf,
    /// Bytes of those files.
    pub(super) list_bytes: u64,
    /// What a walk over `tree` meets: entries, and bytes of files.
    pub(super) tree: (u64, u64),
    /// The archive that is unpacked.
    pub(super) archive: PathBuf,
}

/// Sizes of small files: 1 to 7 KiB.
fn small(number: usize) -> usize {
    (1 + number % 7) << 10
}

fn directory(number: usize) -> String {
    format!("{:02}/{:03}", number / 50, number)
}

impl Tree {
    pub(super) fn plant(disk: &Disk, size: Size) -> Result<Tree> {
        let room = disk.at.clone();
        let layers: Vec<PathBuf> = (0..LAYERS).map(|n| room.join(format!("layer-{n}"))).collect();
        let mut planted = Planted::default();
        let mut list = Vec::new();
        let mut list_bytes = 0;
        let step = size.files / size.some;
        let mut wanted = 0;
        for number in 0..size.files {
            // Half of the directories are merged from all layers, the others each come from one.
            let dir = number / 100;
            let merged = dir.is_multiple_of(2);
            let layer = if merged { number % LAYERS } else { dir / 2 % LAYERS };
            let kind = if merged { "merged" } else { "whole" };
            let path = format!("tree/{kind}/{}/file-{number:05}", directory(dir));
            planted.file(&layers[layer], &path, small(number))?;
            if number >= wanted && list.len() < size.some {
                list.push(path);
                list_bytes += small(number) as u64;
                wanted += step.max(1);
            }
        }
        let tree = (planted.entries, planted.bytes);
        let lowest = &layers[LAYERS - 1];
        for number in 0..size.some {
            let path = format!("remove/{}/file-{number:05}", directory(number / 100));
            planted.file(lowest, &path, small(number))?;
        }
        let archive = room.join("archive.tar");
        run(Command::new("tar")
            .arg("-cf")
            .arg(&archive)
            .arg("-C")
            .arg(lowest.join("remove"))
            .arg("."))?;
        for (name, length) in [("data", size.data), ("copied", size.copied)] {
            large(&lowest.join(name), length)?;
        }
        repository(&lowest.join("repository"), size.repository, &mut planted)?;
        sources(&layers, size.sources)?;
        let names = room.join("list");
        fs::write(&names, list.join("\n"))?;
        Ok(Tree {
            size,
            room,
            layers,
            list: names,
            list_bytes,
            tree,
            archive,
        })
    }
}

/// Makes files, and counts what a walk over all of them would meet.
#[derive(Default)]
struct Planted {
    dirs: std::collections::BTreeSet<PathBuf>,
    made: std::collections::BTreeSet<PathBuf>,
    entries: u64,
    bytes: u64,
}

impl Planted {
    fn file(&mut self, layer: &Path, path: &str, length: usize) -> Result<()> {
        let path = Path::new(path);
        let parent = path.parent().context("a path has a parent")?;
        let there = layer.join(parent);
        if self.made.insert(there.clone()) {
            fs::create_dir_all(&there)?;
        }
        // The topmost directory is where a walk begins, and is not met.
        for dir in parent.ancestors().filter(|dir| dir.components().count() > 1) {
            if self.dirs.insert(dir.to_owned()) {
                self.entries += 1;
            }
        }
        fs::write(layer.join(path), vec![b'.'; length]).with_context(|| path.display().to_string())?;
        self.entries += 1;
        self.bytes += length as u64;
        Ok(())
    }
}

/// A file without holes, whose pages each begin with a 1.
fn large(path: &Path, length: usize) -> Result<()> {
    let mut file = File::create(path)?;
    let piece = vec![1; 1 << 20];
    for _ in 0..length >> 20 {
        file.write_all(&piece)?;
    }
    Ok(())
}

fn repository(dir: &Path, files: usize, planted: &mut Planted) -> Result<()> {
    for number in 0..files {
        planted.file(
            dir,
            &format!("{}/file-{number:05}", directory(number / 50)),
            small(number),
        )?;
    }
    let git = |args: &[&str]| {
        let mut command = Command::new("git");
        command
            .arg("-C")
            .arg(dir)
            .args(["-c", "user.name=bench", "-c", "user.email=bench@localhost"]);
        run(command.args(args))
    };
    git(&["init", "-q"])?;
    git(&["add", "."])?;
    git(&["commit", "-q", "-m", "all"])?;
    fs::write(dir.join("untracked"), "new")?;
    Ok(())
}

/// Sources, and headers in every layer that all of them include.
fn sources(layers: &[PathBuf], count: usize) -> Result<()> {
    const HEADERS: usize = 100;
    let mut includes = String::new();
    for number in 0..HEADERS {
        let dir = layers[number % LAYERS].join("program/include");
        fs::create_dir_all(&dir)?;
        let mut text = format!("#ifndef H{number}\n#define H{number}\n");
        for item in 0..60 {
            text +=
                &format!("struct s{number}_{item} {{ int a; char *b; struct s{number}_{item} *next; }};\n");
            text += &format!(
                "static inline int f{number}_{item}(struct s{number}_{item} *s) {{ return s->a + {item}; }}\n"
            );
        }
        text += "#endif\n";
        fs::write(dir.join(format!("h{number}.h")), text)?;
        includes += &format!("#include \"include/h{number}.h\"\n");
    }
    let program = layers[LAYERS - 1].join("program");
    let mut main = "int puts(const char *);\n".to_owned();
    for number in 0..count {
        let mut text = includes.clone();
        for item in 0..100 {
            text += &format!(
                "int g{number}_{item}(int x) {{ struct s7_{} s = {{ x }}; int t = 0; for (int i = 0; i < x; i++) t += f7_{}(&s) * i; return t; }}\n",
                item % 60,
                item % 60
            );
        }
        fs::write(program.join(format!("source{number}.c")), text)?;
        main += &format!("int g{number}_0(int);\n");
    }
    main += "int main(void) { int t = 0;\n";
    for number in 0..count {
        main += &format!("t += g{number}_0(2);\n");
    }
    main += &format!("puts(t == {} ? \"right\" : \"wrong\"); return 0; }}\n", 2 * count);
    fs::write(program.join("main.c"), main)?;
    Ok(())
}

/// Runs a command that must succeed; what it prints.
pub(super) fn run(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("{:?}", command.get_program()))?;
    if !output.status.success() {
        bail!(
            "{command:?}: {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
