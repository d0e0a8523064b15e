//! A node: containerd on the snapshots of a store.

#![allow(unreachable_pub)] // a module of a test program

use std::path::Path;
use std::time::{Duration, Instant};

use testkit::containerd::{Containerd, Version};
use testkit::registry::Registry;
use testkit::snapshots::Served;
use testkit::{Ended, Image, Layer, Strata};

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_strata");
pub const TARGET: &str = env!("CARGO_TARGET_TMPDIR");

/// A store, its server, and a containerd on it. In the order in which they have to go.
pub struct Node {
    pub containerd: Containerd,
    pub served: Served,
    pub flags: &'static [&'static str],
    pub strata: Strata,
}

impl Node {
    pub fn start(version: Version) -> Node {
        Node::with(version, &[])
    }

    /// One whose server has these flags.
    pub fn with(version: Version, flags: &'static [&'static str]) -> Node {
        let strata = Strata::new(PROGRAM);
        let served = Served::start(&strata, flags);
        let containerd = Containerd::start(version, Path::new(TARGET), &served.socket);
        Node {
            containerd,
            served,
            flags,
            strata,
        }
    }

    pub fn restart_server(&mut self) {
        self.served.kill();
        self.served = Served::start(&self.strata, self.flags);
    }

    /// `ctr run`, by the words of which `flags` come first.
    pub fn run(&self, flags: &[&str], image: &str, id: &str, words: &[&str]) -> Ended {
        let run = ["run", "--snapshotter=strata", "--null-io"];
        let run = if flags.contains(&"--detach") {
            &run[..]
        } else {
            &run[..2]
        };
        self.containerd.end(&[run, flags, &[image, id], words].concat())
    }

    /// What a script prints in a container: into a file, since ctr, when the machine has much to do, leaves before it has
    /// copied all that a program printed.
    #[track_caller]
    pub fn says(&self, image: &str, id: &str, script: &str) -> String {
        let said = self.strata.dir().join("said");
        std::fs::create_dir_all(&said).unwrap();
        let mount = format!(
            "--mount=type=bind,src={},dst=/said,options=rbind:rw",
            said.display()
        );
        let script = format!("( {script} ) >/said/{id}");
        let ended = self.run(&["--rm", &mount], image, id, &["sh", "-c", &script]);
        assert_eq!(ended.code, 0, "{ended:#?}\n{}", self.containerd.log());
        std::fs::read_to_string(said.join(id)).unwrap()
    }

    /// Keys of what containerd has in the store.
    pub fn snapshots(&self) -> Vec<String> {
        let infos = self.served.client("").list(&[]).unwrap();
        infos.into_iter().map(|info| info.key).collect()
    }

    pub fn directories(&self) -> usize {
        std::fs::read_dir(self.strata.root().join("snapshots"))
            .unwrap()
            .count()
    }

    /// Waits until containerd's collector has taken everything.
    pub fn is_emptied(&self) {
        let end = Instant::now() + Duration::from_secs(60);
        while !self.snapshots().is_empty() || self.directories() > 0 {
            assert!(
                Instant::now() < end,
                "{:?}\n{}",
                self.snapshots(),
                self.containerd.log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        let told = self.strata.end(["fsck"]);
        assert_eq!(told.code, 0, "{}{}", told.out, told.err);
    }
}

/// Of three layers: the second takes away what the first has, the third fills a directory anew.
pub fn image(name: &str) -> Image {
    let first = Layer::busybox()
        .file("deleted", 0o644, "x")
        .dir("dir", 0o755)
        .file("dir/old", 0o644, "x")
        .file("kept", 0o640, "first");
    let second = Layer::new().whiteout("deleted").file("second", 0o644, "second");
    let third = Layer::new().opaque("dir").file("dir/new", 0o644, "third");
    Image::new(name).layer(first).layer(second).layer(third)
}

pub const LOOK: &str =
    "cat kept second dir/new; ls dir; ls -d deleted 2>&1 | grep -o 'No such'; stat -c %a kept";
pub const SEEN: &str = "firstsecondthirdnew\nNo such\n640\n";

pub fn import(node: &Node, image: &Image) {
    let archive = node.strata.dir().join("image.tar");
    image.write_docker_archive(&archive);
    let archive = archive.to_str().unwrap();
    node.containerd
        .ok(&["image", "import", "--snapshotter=strata", archive]);
}

/// Puts an image into a registry that strata is told to trust; its name there.
pub fn offer(strata: &Strata, registry: &Registry, image: &Image, rest: &str) -> String {
    let layout = tempfile::tempdir().unwrap();
    image.write_layout(layout.path());
    registry.fill(&format!("oci:{}", layout.path().display()), rest, &[]);
    let config = format!("[registries]\nplain_http = [\"{}\"]\n", registry.host());
    std::fs::write(strata.dir().join("config.toml"), config).unwrap();
    registry.name(rest)
}
