//! `strata serve snapshotter --driver fuse`: overlays that strata serves, and containerd binds.

use std::cell::Cell;
use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use grpc::Code;
use mount::Mount;
use snapshotter::wire;
use store::{Labels, REF};
use testkit::Strata;
use testkit::program::mounts_beneath;
use testkit::snapshots::{Remote, Served};
use testkit::snapshotter::{Snapshotter, mounted_contract};

const PROGRAM: &str = env!("CARGO_BIN_EXE_strata");
const FUSE: &[&str] = &["--driver", "fuse"];

fn none() -> Labels {
    Labels::default()
}

/// Does something in what is mounted of a snapshot, as containerd does.
fn within(mounts: &[Mount], work: impl FnOnce(&Path)) {
    let target = tempfile::tempdir().unwrap();
    mount::attach(&mounts[0], target.path()).unwrap();
    work(target.path());
    mount::detach(target.path()).unwrap();
}

/// Two layers: the second takes away something of the first.
fn layers(remote: &Remote) {
    let layer = |name: &str, parent: Option<&str>, work: &dyn Fn(&Path)| {
        let mounts = remote.prepare("k8s.io/1/work", parent, &none()).unwrap();
        assert_eq!(mounts[0].kind, "bind");
        within(&mounts, work);
        remote.commit(name, "k8s.io/1/work", &none(), None).unwrap();
    };
    layer("one", None, &|root| {
        fs::write(root.join("deleted"), "").unwrap();
        fs::write(root.join("kept"), "one").unwrap();
    });
    layer("two", Some("one"), &|root| {
        fs::remove_file(root.join("deleted")).unwrap();
        fs::write(root.join("new"), "two").unwrap();
    });
}

/// The place of a bind, which lies in the state directory.
fn place(strata: &Strata, mounts: &[Mount]) -> PathBuf {
    assert_eq!(mounts[0].kind, "bind", "{mounts:?}");
    let place = PathBuf::from(&mounts[0].source);
    assert!(place.starts_with(strata.state()), "{}", place.display());
    place
}

fn kind(place: &Path) -> Option<String> {
    mount::table::at(place).unwrap().map(|entry| entry.kind)
}

#[test]
fn the_contract_holds_on_overlays_that_strata_serves() {
    let strata = Strata::new(PROGRAM);
    let served = Served::start(&strata, FUSE);
    let next = Cell::new(0);
    let make = || -> Box<dyn Snapshotter> {
        next.set(next.get() + 1);
        Box::new(served.client(&format!("ns-{}", next.get())))
    };
    // What its cases say of mounts as values is the kernel's driver's.
    mounted_contract(&make);
    // Each ends what serves it; those that others stand on go after these.
    for n in 1..=next.get() {
        let remote = served.client(&format!("ns-{n}"));
        loop {
            let there = remote.list(&[]).unwrap();
            let gone = there
                .iter()
                .filter(|info| remote.remove(&info.key).is_ok())
                .count();
            match (there.len(), gone) {
                (0, _) => break,
                (left, gone) => assert!(gone > 0, "{left} stay"),
            }
        }
    }
    assert!(mounts_beneath(strata.dir()).is_empty());
}

#[test]
fn a_served_overlay_outlives_the_server_of_the_service() {
    let strata = Strata::new(PROGRAM);
    let mut served = Served::start(&strata, FUSE);
    let remote = served.client("k8s.io");
    layers(&remote);
    let mounts = remote.prepare("k8s.io/3/run", Some("two"), &none()).unwrap();
    assert_eq!(mounts[0].options, ["rw", "rbind"]);
    let place = place(&strata, &mounts);
    assert_eq!(kind(&place).as_deref(), Some("fuse.strata"));
    assert_eq!(remote.mounts("k8s.io/3/run").unwrap(), mounts);
    assert_eq!(
        mounts_beneath(strata.dir()).len(),
        1,
        "one mount, however often it is asked for"
    );

    // A container goes on writing while the service is killed and started again, and stopped and started again.
    let target = tempfile::tempdir().unwrap();
    mount::attach(&mounts[0], target.path()).unwrap();
    let open = fs::File::create(target.path().join("open")).unwrap();
    served.kill();
    fs::write(target.path().join("written"), "by a container").unwrap();
    assert!(!target.path().join("deleted").exists());
    let mut served = Served::start(&strata, FUSE);
    assert_eq!(served.client("k8s.io").mounts("k8s.io/3/run").unwrap(), mounts);
    assert_eq!(served.stop(), 0);
    std::io::Write::write_all(&mut &open, b"still").unwrap();
    let served = Served::start(&strata, FUSE);
    let remote = served.client("k8s.io");
    assert_eq!(fs::read_to_string(target.path().join("open")).unwrap(), "still");
    drop(open);
    mount::detach(target.path()).unwrap();

    // After the machine was started nothing is mounted: it is when it is asked for.
    mount::fuse::detach(&place).unwrap();
    assert_eq!(kind(&place), None);
    assert_eq!(remote.mounts("k8s.io/3/run").unwrap(), mounts);
    assert_eq!(
        fs::read_to_string(place.join("written")).unwrap(),
        "by a container"
    );

    // What was committed lies in the store, and is mounted no more.
    let server = server_of(&place);
    remote.commit("three", "k8s.io/3/run", &none(), None).unwrap();
    assert!(!place.exists());
    // Gone, or a child that has ended.
    let words = fs::read(format!("/proc/{server}/cmdline")).unwrap_or_default();
    assert!(words.is_empty(), "its server ends when it is told to");
    let mounts = remote.prepare("k8s.io/4/next", Some("three"), &none()).unwrap();
    within(&mounts, |root| {
        assert_eq!(
            fs::read_to_string(root.join("written")).unwrap(),
            "by a container"
        );
        assert!(!root.join("deleted").exists());
    });
    for key in ["k8s.io/4/next", "three", "two", "one"] {
        remote.remove(key).unwrap();
    }
    assert!(mounts_beneath(strata.dir()).is_empty());
}

#[test]
fn a_view_is_read_only_and_what_needs_no_overlay_is_a_bind_of_the_store() {
    let strata = Strata::new(PROGRAM);
    let served = Served::start(&strata, FUSE);
    let remote = served.client("k8s.io");
    layers(&remote);
    let view = remote.view("k8s.io/4/look", Some("two"), &none()).unwrap();
    place(&strata, &view);
    within(&view, |root| {
        let error = fs::write(root.join("kept"), "x").unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
        assert_eq!(fs::read_to_string(root.join("new")).unwrap(), "two");
    });
    let lone = remote.view("k8s.io/5/lone", Some("one"), &none()).unwrap();
    assert!(Path::new(&lone[0].source).starts_with(strata.root()), "{lone:?}");
    // containerd writes whiteouts itself, to what it sees as an overlay.
    let apart = Labels::from([(REF.to_owned(), "x".to_owned())]);
    let apart = remote.prepare("k8s.io/6/apart", None, &apart).unwrap();
    assert_eq!(apart[0].kind, "overlay");
    for key in ["k8s.io/4/look", "k8s.io/5/lone", "k8s.io/6/apart"] {
        remote.remove(key).unwrap();
    }
    assert!(mounts_beneath(strata.dir()).is_empty());
}

#[test]
fn what_is_left_is_cleaned_and_what_cannot_be_mounted_is_not_there() {
    let strata = Strata::new(PROGRAM);
    let served = Served::start(&strata, FUSE);
    let remote = served.client("k8s.io");
    layers(&remote);
    // Taken from the store by another.
    let left = remote.prepare("k8s.io/5/left", Some("two"), &none()).unwrap();
    let left = place(&strata, &left);
    let store = store::Store::open(&strata.root()).unwrap();
    store.remove("k8s.io", "k8s.io/5/left").unwrap();
    remote.cleanup().unwrap();
    assert!(!left.exists());
    // Its server was killed: whoever asks for the mounts gets a new one.
    let mounts = remote.prepare("k8s.io/6/killed", Some("two"), &none()).unwrap();
    let killed = place(&strata, &mounts);
    fs::write(killed.join("kept"), "changed").unwrap();
    let server = kill_server(&killed);
    assert!(fs::metadata(&killed).is_err(), "{server} is dead");
    assert_eq!(remote.mounts("k8s.io/6/killed").unwrap(), mounts);
    assert_eq!(fs::read_to_string(killed.join("kept")).unwrap(), "changed");
    // Dead again, it can be removed all the same.
    kill_server(&killed);
    remote.remove("k8s.io/6/killed").unwrap();
    assert!(fs::symlink_metadata(&killed).is_err());

    let long = wire::PrepareRequest {
        key: "x".repeat(300),
        parent: "two".into(),
        ..wire::PrepareRequest::default()
    };
    let status = remote.status("Prepare", &long);
    assert_eq!(status.code, Code::InvalidArgument, "{status}");
    let there: Vec<_> = remote
        .list(&[])
        .unwrap()
        .into_iter()
        .map(|info| info.key)
        .collect();
    assert_eq!(there, ["one", "two"]);
    let refused = strata.end([
        "serve",
        "snapshotter",
        "--driver",
        "fuse",
        "--mount-options",
        "nosuch=1",
    ]);
    assert!(
        refused.code != 0 && refused.err.contains("nosuch"),
        "{}",
        refused.err
    );
    assert!(mounts_beneath(strata.dir()).is_empty());
}

#[test]
fn a_leftover_is_not_the_next_of_its_name() {
    let strata = Strata::new(PROGRAM);
    let served = Served::start(&strata, FUSE);
    let remote = served.client("k8s.io");
    layers(&remote);
    let first = remote.prepare("k8s.io/5/again", Some("two"), &none()).unwrap();
    fs::write(place(&strata, &first).join("of-the-first"), "").unwrap();
    let store = store::Store::open(&strata.root()).unwrap();
    store.remove("k8s.io", "k8s.io/5/again").unwrap();
    let second = remote.prepare("k8s.io/5/again", Some("two"), &none()).unwrap();
    assert!(!place(&strata, &second).join("of-the-first").exists());
    assert!(place(&strata, &second).join("new").exists());
    remote.remove("k8s.io/5/again").unwrap();
    assert!(mounts_beneath(strata.dir()).is_empty());
}

#[test]
fn the_driver_may_change_while_containers_run() {
    let strata = Strata::new(PROGRAM);
    let mut served = Served::start(&strata, FUSE);
    let remote = served.client("k8s.io");
    layers(&remote);
    let ours = remote.prepare("k8s.io/5/ours", Some("two"), &none()).unwrap();
    let dead = remote.prepare("k8s.io/6/dead", Some("two"), &none()).unwrap();
    assert_eq!(served.stop(), 0);
    let mut served = Served::start(&strata, &[]);
    let remote = served.client("k8s.io");
    assert_eq!(remote.mounts("k8s.io/5/ours").unwrap(), ours);
    kill_server(&place(&strata, &dead));
    assert_eq!(remote.mounts("k8s.io/6/dead").unwrap()[0].kind, "overlay");
    assert!(fs::symlink_metadata(&dead[0].source).is_err());
    remote.commit("three", "k8s.io/5/ours", &none(), None).unwrap();
    remote.remove("k8s.io/6/dead").unwrap();
    assert!(mounts_beneath(strata.dir()).is_empty());

    let kernels = remote
        .prepare("k8s.io/7/kernels", Some("three"), &none())
        .unwrap();
    let target = tempfile::tempdir().unwrap();
    mount::attach(&kernels[0], target.path()).unwrap();
    assert_eq!(served.stop(), 0);
    let served = Served::start(&strata, FUSE);
    let remote = served.client("k8s.io");
    let key = wire::KeyRequest {
        key: "k8s.io/7/kernels".into(),
        ..wire::KeyRequest::default()
    };
    let status = remote.status("Mounts", &key);
    assert!(status.message.contains("in use"), "{status}");
    mount::detach(target.path()).unwrap();
    let ours = remote.mounts("k8s.io/7/kernels").unwrap();
    assert_eq!(kind(&place(&strata, &ours)).as_deref(), Some("fuse.strata"));
    remote.remove("k8s.io/7/kernels").unwrap();
    assert!(mounts_beneath(strata.dir()).is_empty());
}

#[test]
fn a_state_directory_by_a_link() {
    let strata = Strata::new(PROGRAM);
    let link = strata.dir().join("link");
    fs::create_dir_all(strata.state()).unwrap();
    std::os::unix::fs::symlink(strata.state(), &link).unwrap();
    let served = Served::start(&strata, &[FUSE, &["--state", link.to_str().unwrap()]].concat());
    let remote = served.client("k8s.io");
    layers(&remote);
    let mounts = remote.prepare("k8s.io/3/run", Some("two"), &none()).unwrap();
    let server = server_of(&place(&strata, &mounts));
    assert_eq!(remote.mounts("k8s.io/3/run").unwrap(), mounts);
    assert_eq!(server_of(&place(&strata, &mounts)), server, "one server");
    remote.remove("k8s.io/3/run").unwrap();
    assert!(mounts_beneath(strata.dir()).is_empty());
}

/// Docker's containerd beside Kubernetes': a store and a socket for each, and one state directory, with keys that both count
/// from one.
#[test]
fn servers_of_two_stores_leave_each_others_overlays_alone() {
    let strata = Strata::new(PROGRAM);
    let first = Served::start(&strata, FUSE);
    let root = strata.dir().join("other-root");
    let root = root.to_str().unwrap();
    let socket = strata.dir().join("other.sock");
    let other = Served::at(&strata, &socket, &[FUSE, &["--root", root]].concat());
    let run = |served: &Served, word: &str| {
        let remote = served.client("k8s.io");
        layers(&remote);
        let mounts = remote.prepare("k8s.io/3/run", Some("two"), &none()).unwrap();
        fs::write(place(&strata, &mounts).join("who"), word).unwrap();
        mounts
    };
    let ours = run(&first, "first");
    let theirs = run(&other, "other");
    let who = |mounts: &[Mount]| fs::read_to_string(place(&strata, mounts).join("who")).unwrap();
    assert_eq!((who(&ours), who(&theirs)), ("first".into(), "other".into()));
    other.client("k8s.io").remove("k8s.io/3/run").unwrap();
    other.client("k8s.io").cleanup().unwrap();
    drop(other);
    // Nor does one that lets containerd mount.
    let other = Served::at(&strata, &socket, &["--root", root]);
    other.client("k8s.io").cleanup().unwrap();
    assert_eq!(first.client("k8s.io").mounts("k8s.io/3/run").unwrap(), ours);
    assert_eq!(who(&ours), "first");
    first.client("k8s.io").remove("k8s.io/3/run").unwrap();
    assert!(mounts_beneath(strata.dir()).is_empty());
}

/// A bind would map the writable directory too, which is the container's root's outside already: its root would be nobody's.
#[test]
fn what_maps_ids_is_the_kernels_overlay() {
    let strata = Strata::new(PROGRAM);
    let mut served = Served::start(&strata, FUSE);
    let remote = served.client("k8s.io");
    layers(&remote);
    let map = ["uidmapping", "gidmapping"].map(|name| {
        (
            format!("containerd.io/snapshot/{name}"),
            "0:100000:65536".to_owned(),
        )
    });
    let mounts = remote
        .prepare("k8s.io/3/mapped", Some("two"), &Labels::from(map))
        .unwrap();
    assert_eq!(mounts[0].kind, "overlay");
    assert_eq!(
        mounts[0].options[..2],
        ["uidmap=0:100000:65536", "gidmap=0:100000:65536"]
    );
    assert_eq!(remote.mounts("k8s.io/3/mapped").unwrap(), mounts);
    assert!(mounts_beneath(strata.dir()).is_empty());
    assert_eq!(served.stop(), 0);
    let served = Served::start(&strata, &[]);
    let remote = served.client("k8s.io");
    assert_eq!(remote.mounts("k8s.io/3/mapped").unwrap(), mounts);
    // Of a containerd that has changed the owners itself there is nothing to map.
    drop(served);
    let served = Served::start(&strata, &[FUSE, &["--no-remap-ids"]].concat());
    let remote = served.client("k8s.io");
    let mounts = remote.mounts("k8s.io/3/mapped").unwrap();
    let place = place(&strata, &mounts);
    assert_eq!(fs::metadata(&place).unwrap().uid(), 100_000);
    remote.remove("k8s.io/3/mapped").unwrap();
    assert!(mounts_beneath(strata.dir()).is_empty());
}

/// Whoever asked a server that is stopped would wait until somebody lets it go on.
#[test]
fn a_server_that_hangs_keeps_no_call() {
    let strata = Strata::new(PROGRAM);
    let mut served = Served::start(&strata, FUSE);
    let remote = served.client("k8s.io");
    layers(&remote);
    let (run, other) = ("k8s.io/3/run", "k8s.io/4/other");
    let mounts = remote.prepare(run, Some("two"), &none()).unwrap();
    let others = remote.prepare(other, Some("two"), &none()).unwrap();
    within(&mounts, |root| fs::write(root.join("kept"), "changed").unwrap());
    let places = [place(&strata, &mounts), place(&strata, &others)];
    for place in &places {
        let process = rustix::process::Pid::from_raw(server_of(place)).unwrap();
        rustix::process::kill_process(process, rustix::process::Signal::STOP).unwrap();
    }
    assert_eq!(remote.mounts(run).unwrap(), mounts);
    // As well by one that has not started it.
    served.kill();
    let served = Served::start(&strata, FUSE);
    let remote = served.client("k8s.io");
    assert_eq!(remote.mounts(run).unwrap(), mounts);
    remote.cleanup().unwrap();
    // A server that is asked to end, and does not, is waited for a little.
    let timed = |call: &dyn Fn()| {
        let begun = Instant::now();
        call();
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    };
    timed(&|| remote.commit("three", run, &none(), None).unwrap());
    timed(&|| remote.remove(other).unwrap());
    assert!(mounts_beneath(strata.dir()).is_empty());
    let mounts = remote.prepare("k8s.io/5/next", Some("three"), &none()).unwrap();
    within(&mounts, |root| {
        assert_eq!(fs::read_to_string(root.join("kept")).unwrap(), "changed");
    });
    for key in ["k8s.io/5/next", "three"] {
        remote.remove(key).unwrap();
    }
    assert!(places.iter().all(|place| !place.exists()));
    let left = places[0].ancestors().nth(2).unwrap().join(".servers/k8s.io");
    assert_eq!(fs::read_dir(left).unwrap().count(), 0);
}

/// containerd's own suite asks it of every snapshotter that is not the kernel's overlay as it is by default.
#[test]
fn a_directory_from_below_is_renamed_by_either_driver() {
    for flags in [&["--mount-options", "redirect_dir=on"][..], FUSE] {
        let strata = Strata::new(PROGRAM);
        let served = Served::start(&strata, flags);
        let remote = served.client("k8s.io");
        let layer = |name: &str, parent: Option<&str>, work: &dyn Fn(&Path)| {
            let mounts = remote.prepare("k8s.io/1/work", parent, &none()).unwrap();
            within(&mounts, work);
            remote.commit(name, "k8s.io/1/work", &none(), None).unwrap();
        };
        layer("one", None, &|root| {
            fs::create_dir_all(root.join("somefiles/sub")).unwrap();
            for name in ["a", "sub/b"] {
                fs::write(root.join("somefiles").join(name), name).unwrap();
            }
        });
        // A rename that the kernel refuses (EXDEV) would be made up for by whoever copies; it is to be one.
        layer("two", Some("one"), &|root| {
            fs::rename(root.join("somefiles"), root.join("moved")).unwrap();
            fs::write(root.join("moved/sub/c"), "c").unwrap();
        });
        layer("three", Some("two"), &|root| {
            fs::create_dir(root.join("dir")).unwrap();
            fs::rename(root.join("moved/sub"), root.join("dir/again")).unwrap();
            fs::create_dir(root.join("somefiles")).unwrap();
        });
        let view = remote.view("k8s.io/2/look", Some("three"), &none()).unwrap();
        within(&view, |root| {
            let read = |name: &str| fs::read_to_string(root.join(name)).unwrap();
            assert_eq!(read("moved/a"), "a", "{flags:?}");
            assert_eq!(read("dir/again/b") + &read("dir/again/c"), "sub/bc");
            assert_eq!(fs::read_dir(root.join("somefiles")).unwrap().count(), 0);
            assert_eq!(fs::read_dir(root.join("moved")).unwrap().count(), 1);
        });
        remote.remove("k8s.io/2/look").unwrap();
    }
}

#[test]
fn roots_are_0755_whatever_the_umask() {
    for flags in [&[][..], FUSE] {
        let strata = Strata::new(PROGRAM);
        let socket = strata.dir().join("sock");
        let program = strata.command(["serve", "snapshotter", "--address"]);
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", "umask 077; exec \"$@\"", "sh"]);
        shell.arg(program.get_program()).args(program.get_args());
        shell.arg(&socket).args(flags);
        shell.envs(
            program
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        );
        let served = Served::run(shell, &socket);
        let remote = served.client("k8s.io");
        let mode = |mounts: &[Mount]| {
            let mut mode = 0;
            within(mounts, |root| mode = fs::metadata(root).unwrap().mode() & 0o7777);
            mode
        };
        let base = remote.prepare("k8s.io/1/base", None, &none()).unwrap();
        assert_eq!(mode(&base), 0o755);
        remote.commit("base", "k8s.io/1/base", &none(), None).unwrap();
        let run = remote.prepare("k8s.io/2/run", Some("base"), &none()).unwrap();
        assert_eq!(mode(&run), 0o755);
        // Nor does what a container makes hang on it.
        within(&run, |root| {
            fs::DirBuilder::new()
                .mode(0o777)
                .create(root.join("made"))
                .unwrap();
        });
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let own = status
            .lines()
            .find_map(|line| line.strip_prefix("Umask:\t"))
            .unwrap();
        let own = u32::from_str_radix(own, 8).unwrap();
        within(&run, |root| {
            let made = fs::metadata(root.join("made")).unwrap().mode() & 0o7777;
            assert_eq!(made, 0o777 & !own);
        });
        let apart = Labels::from([(REF.to_owned(), "x".to_owned())]);
        assert_eq!(
            mode(&remote.prepare("k8s.io/3/apart", None, &apart).unwrap()),
            0o755
        );
        remote.remove("k8s.io/2/run").unwrap();
    }
}

#[test]
fn what_a_killed_server_showed_is_in_nobodys_way() {
    let strata = Strata::new(PROGRAM);
    let served = Served::start(&strata, FUSE);
    let remote = served.client("k8s.io");
    layers(&remote);
    let mounts = remote.prepare("k8s.io/3/run", Some("two"), &none()).unwrap();
    let beside = remote.prepare("k8s.io/4/run", Some("two"), &none()).unwrap();
    let (dead, alive) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    mount::attach(&mounts[0], dead.path()).unwrap();
    mount::attach(&beside[0], alive.path()).unwrap();
    fs::write(dead.path().join("written"), "by a container").unwrap();
    // As that of a container that runs on.
    let inside = fs::File::open(dead.path()).unwrap();

    kill_server(&place(&strata, &mounts));
    let end = Instant::now() + Duration::from_secs(60);
    // containerd looks before it unmounts: what does not answer, it does not get past.
    while fs::symlink_metadata(dead.path()).is_err() {
        assert!(Instant::now() < end, "it stays");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(kind(dead.path()), None);
    drop(inside);
    assert_eq!(kind(alive.path()).as_deref(), Some("fuse.strata"));
    assert!(!alive.path().join("deleted").exists());

    // What was written is there, for the next that asks.
    let again = remote.mounts("k8s.io/3/run").unwrap();
    within(&again, |root| {
        assert_eq!(
            fs::read_to_string(root.join("written")).unwrap(),
            "by a container"
        );
    });
    mount::detach(alive.path()).unwrap();
    for key in ["k8s.io/3/run", "k8s.io/4/run", "two", "one"] {
        remote.remove(key).unwrap();
    }
    assert!(mounts_beneath(strata.dir()).is_empty());
}

/// The process that serves a place.
fn server_of(place: &Path) -> i32 {
    let mut text = [0; 64];
    let length = rustix::fs::getxattr(place, "security.strata.server", &mut text).unwrap();
    let text = std::str::from_utf8(&text[..length]).unwrap();
    text.split(' ').next().unwrap().parse().unwrap()
}

/// Kills the process that serves a place.
fn kill_server(place: &Path) -> i32 {
    let pid = server_of(place);
    let process = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(process, rustix::process::Signal::KILL).unwrap();
    let end = Instant::now() + Duration::from_secs(60);
    while rustix::fs::statfs(place).is_ok() {
        assert!(Instant::now() < end, "it does not end");
        std::thread::sleep(Duration::from_millis(5));
    }
    pid
}
