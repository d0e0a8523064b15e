//! An image of as many layers as the kernel stacks, run; and one of more, refused. Needs root.

mod common;

use common::{Image, Layer, Strata, empty, refused};

/// The kernel's limit (OVL_MAX_STACK in fs/overlayfs/params.h).
const MOST: usize = 500;

/// What each layer brings, takes away and changes, as the next to last of them shows it.
fn image(name: &str, layers: usize) -> Image {
    let mut image = Image::new(name).layer(
        Layer::busybox()
            .dir("d", 0o755)
            .dir("gone", 0o755)
            .file("gone/a", 0o644, ""),
    );
    for n in 1..layers {
        let mut layer = Layer::new()
            .dir("d", 0o755)
            .file(format!("d/{n}"), 0o644, format!("{n}\n"))
            .file("d/last", 0o644, format!("{n}\n"));
        // Every third layer takes away what the one before brought, and every hundredth hides a whole directory.
        if n % 3 == 0 {
            layer = layer.whiteout(format!("d/{}", n - 1));
        }
        if n % 100 == 0 {
            layer = layer
                .dir("gone", 0o755)
                .opaque("gone")
                .file(format!("gone/{n}"), 0o644, "");
        }
        image = image.layer(layer);
    }
    image
}

fn load(strata: &Strata, image: &Image) -> common::Ended {
    let layout = strata.dir().join("layout");
    image.write_layout(&layout);
    strata.end(["load".as_ref(), "-i".as_ref(), layout.as_os_str()])
}

#[test]
fn five_hundred_layers_run() {
    let strata = empty();
    let loaded = load(&strata, &image("docker.io/library/tall:1", MOST));
    assert_eq!(loaded.code, 0, "{loaded:?}");
    let script = "cat d/last; ls d | wc -l; ls gone; cat d/1 d/499; test -e d/2 || echo hidden; \
                  rm d/1 && echo new >d/2 && mv d/4 d/renamed && cat d/2 d/renamed";
    let seen = strata.ok(["run", "--name", "one", "tall:1", "sh", "-c", script]);
    // 499 files of their own and `last`, less the 166 that every third layer takes away.
    let there = MOST - (MOST - 1) / 3;
    assert_eq!(seen, format!("499\n{there}\n400\n1\n499\nhidden\nnew\n4\n"));
    let changed = strata.ok(["diff", "one"]);
    for line in ["D /d/1", "A /d/2", "D /d/4", "A /d/renamed"] {
        assert!(changed.lines().any(|one| one == line), "{line}: {changed}");
    }
    // The next container sees the image as it was.
    let again = strata.ok(["run", "--rm", "tall:1", "sh", "-c", "cat d/1; ls d | wc -l"]);
    assert_eq!(again, format!("1\n{there}\n"));
    let layers = strata.ok(["layers", "--format", "json", "tall:1"]);
    assert_eq!(layers.matches("\"DiffId\"").count(), MOST, "{layers}");
    strata.ok(["rm", "one"]);
    strata.ok(["rmi", "tall:1"]);
    assert_eq!(strata.in_use(), (vec![], vec![]));
    assert_eq!(
        std::fs::read_dir(strata.root().join("snapshots"))
            .unwrap()
            .count(),
        0
    );
}

#[test]
fn one_more_is_refused() {
    let strata = empty();
    let ended = load(&strata, &image("docker.io/library/tall:2", MOST + 1));
    refused(&ended, &["501 layers", "at most 500"]);
    assert!(
        ended.err.contains("hint: ") && ended.err.contains("squash"),
        "{ended:?}"
    );
    assert_eq!(strata.ok(["images", "-q"]), "");
    assert_eq!(
        std::fs::read_dir(strata.root().join("snapshots"))
            .unwrap()
            .count(),
        0
    );
}
