//! Containers of an image with as many layers as the kernel stacks. Needs root.

mod common;

use common::{Image, Layer, empty, refused};

/// The most layers of an image.
const MOST: usize = 500;

/// Layer `n` brings `f<n>` and writes `last` anew; every tenth deletes the file of the layer below; one in the middle
/// hides all that was in `d` so far.
fn layer(n: usize) -> Layer {
    let mut layer = Layer::new()
        .file(format!("f{n}"), 0o644, format!("{n}\n"))
        .file("last", 0o644, format!("{n}\n"))
        .dir("d", 0o755)
        .file(format!("d/{n}"), 0o644, "");
    if n.is_multiple_of(10) {
        layer = layer.whiteout(format!("f{}", n - 1));
    }
    if n == MOST / 2 {
        layer = layer.opaque("d");
    }
    layer
}

#[test]
fn five_hundred_layers_are_one_view_by_either_driver() {
    let strata = empty();
    let image = (1..MOST).fold(Image::busybox().name("quay.io/most:1"), |image, n| {
        image.layer(layer(n))
    });
    strata.load(&image);

    // 499 files of which 49 were deleted again, the newest of what each layer wrote, and what came after the opaque one.
    let script = "ls / | grep -c '^f[0-9]'; cat /last /f1 /f498; ls /f9 /f489 2>&1 | grep -c 'No such'; \
                  ls /d | wc -l; echo mine >/f1 && rm /f2 && mv /d /e && ls /e | wc -l && cat /f1";
    let shown = "450\n499\n1\n498\n2\n250\n250\nmine\n";
    for driver in ["kernel", "fuse"] {
        let seen = strata.ok([
            "run",
            "--rm",
            "--driver",
            driver,
            "quay.io/most:1",
            "sh",
            "-c",
            script,
        ]);
        assert_eq!(seen, shown, "{driver}");
    }
    assert_eq!(
        strata.ok(["run", "--rm", "quay.io/most:1", "cat", "/f1", "/f2"]),
        "1\n2\n",
        "the image stayed as it was"
    );

    let shown = strata.ok(["layers", "--format", "json", "quay.io/most:1"]);
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["Layers"].as_array().unwrap().len(), MOST);

    let archive = strata.dir().join("more.tar");
    image
        .layer(Layer::new())
        .name("quay.io/more:1")
        .write_oci_archive(&archive);
    let ended = strata.end(["load", "-q", "-i", archive.to_str().unwrap()]);
    refused(&ended, &["501 layers", "at most 500"]);
    assert!(ended.err.contains("squash"), "{ended:?}");
    assert!(!strata.ok(["images"]).contains("more"));
}
