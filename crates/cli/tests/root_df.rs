//! `df`, `history` and `images --tree`: accountable for every byte. Needs root.

mod common;

use std::path::Path;
use std::process::Command;

use common::{Image, Layer, Strata, empty};
use serde_json::{Value, json};
use testkit::Disk;

fn du(root: &Path) -> u64 {
    let output = Command::new("du").args(["-s", "-B1"]).arg(root).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.split_whitespace().next().unwrap().parse().unwrap()
}

fn df(strata: &Strata) -> Value {
    serde_json::from_str(&strata.ok(["df", "-v", "--format", "json"])).unwrap()
}

/// Two images that share their base, one of which has a container.
fn fill(strata: &Strata) {
    let noise: Vec<u8> = (0..300_000u32)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();
    let many = (0..200).fold(Layer::new(), |layer, n| {
        layer.file(format!("d{}/f{n}", n % 7), 0o644, n.to_string())
    });
    strata.load(&Image::busybox());
    strata.load(&Image::busybox().layer(many).name("docker.io/library/many:1"));
    let big = Layer::new().file("noise", 0o644, noise);
    strata.load(&Image::busybox().layer(big).name("docker.io/library/big:1"));
    strata.ok([
        "run",
        "--name",
        "c1",
        "many:1",
        "sh",
        "-c",
        "head -c 70000 /dev/zero >/written; rm /d0/f0",
    ]);
}

#[test]
fn df_agrees_with_du_to_the_block() {
    let disks = [
        Disk::new("ext4", &["mkfs.ext4", "-q"], 64 << 20, "rw"),
        Disk::xfs(),
        Disk::new("btrfs", &["mkfs.btrfs", "-q"], 128 << 20, "rw"),
    ];
    for disk in &disks {
        let strata = Strata::beneath(&disk.path(), env!("CARGO_BIN_EXE_strata"));
        fill(&strata);
        // The first writes down what it measures, which the database grows by.
        df(&strata);
        rustix::fs::sync();
        let told = df(&strata);
        assert_eq!(told["Total"], du(&strata.root()), "{told:#}");
    }
}

#[test]
fn what_is_unique_shared_and_freeable_is_so() {
    let strata = empty();
    fill(&strata);
    df(&strata);
    let before = df(&strata);
    let image = |told: &Value, name: &str| -> Value {
        let images = told["Details"]["Images"].as_array().unwrap();
        let found = images.iter().find(|image| image["Names"][0] == name);
        found.unwrap_or_else(|| panic!("no {name}: {told:#}")).clone()
    };
    assert_eq!(
        (&before["Images"]["Count"], &before["Images"]["Active"]),
        (&json!(3), &json!(1))
    );
    assert_eq!(
        (&before["Containers"]["Count"], &before["Containers"]["Active"]),
        (&json!(1), &json!(0))
    );
    let (big, many, busybox) = (
        image(&before, "big:1"),
        image(&before, "many:1"),
        image(&before, "busybox:latest"),
    );
    assert!(big["Shared"].as_u64().unwrap() > 500_000, "{big}");
    assert!(big["Unique"].as_u64().unwrap() > 1_200_000, "{big}");
    assert_eq!(big["Freeable"], big["Unique"]);
    assert_eq!((&many["Freeable"], &many["Containers"]), (&json!(0), &json!(1)));
    assert!(many["Unique"].as_u64().unwrap() > 800_000, "{many}");
    // Only its manifest and configuration are its own.
    assert!(busybox["Unique"].as_u64().unwrap() < 20_000, "{busybox}");
    let container = &before["Details"]["Containers"][0];
    assert!(container["Bytes"].as_u64().unwrap() >= 70_000, "{container}");

    // What was said of an image is what removing it gives back.
    strata.ok(["rmi", "big:1"]);
    let after = df(&strata);
    let images = |told: &Value| told["Images"]["Bytes"].as_u64().unwrap();
    assert_eq!(
        images(&before) - images(&after),
        big["Freeable"].as_u64().unwrap()
    );
    assert_eq!(
        before["Images"]["Freeable"].as_u64().unwrap() - after["Images"]["Freeable"].as_u64().unwrap(),
        big["Freeable"].as_u64().unwrap()
    );
    strata.ok(["rm", "c1"]);
    let after = df(&strata);
    assert_eq!(after["Containers"]["Bytes"], 0);
    assert_ne!(image(&after, "many:1")["Freeable"], 0);
    let table = strata.ok(["df", "-v"]);
    for word in [
        "TYPE",
        "Images",
        "Left over",
        "All",
        "many:1",
        "LAYER",
        "CONTAINER ID",
    ] {
        assert!(table.contains(word), "{word}: {table}");
    }
    assert_eq!(strata.ok(["system", "df"]).lines().next(), table.lines().next());
}

#[test]
fn a_history_tells_each_build_step() {
    let strata = empty();
    let image = Image::busybox().layer(Layer::new().file("a", 0o644, "a")).whole(
        "history",
        json!([
            { "created": "2024-01-02T03:04:05Z", "created_by": "ADD busybox\n  /", "comment": "base" },
            { "created_by": "ENV A=1", "empty_layer": true },
            { "created_by": format!("RUN {}", "long ".repeat(40)) },
        ]),
    );
    strata.load(&image);
    let steps: Value = serde_json::from_str(&strata.ok(["history", "--format", "json", "busybox"])).unwrap();
    assert_eq!(steps.as_array().unwrap().len(), 3);
    assert_eq!(
        (&steps[1]["DiffId"], &steps[1]["Size"]),
        (&Value::Null, &json!(0))
    );
    assert!(steps[2]["Size"].as_u64().unwrap() > 500_000, "{steps:#}");
    assert_eq!(steps[2]["Created"], "2024-01-02T03:04:05Z");
    let table = strata.ok(["history", "busybox"]);
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 4, "{table}");
    assert!(
        lines[1].contains("RUN long long") && lines[1].contains('…'),
        "{table}"
    );
    assert!(
        lines[2].starts_with("<none>") && lines[2].contains("ENV A=1"),
        "{table}"
    );
    assert!(
        lines[3].contains("ADD busybox /") && lines[3].ends_with("base"),
        "{table}"
    );
    let full = strata.ok(["history", "--no-trunc", "--format", "{{.CreatedBy}}", "busybox"]);
    assert!(full.lines().next().unwrap().len() > 200, "{full}");
    assert_eq!(
        strata.ok(["image", "history", "-q", "busybox"]).lines().count(),
        3
    );
    common::refused(&strata.end(["history", "nowhere"]), &["nowhere"]);
}

#[test]
fn images_are_drawn_on_what_they_stand_on() {
    let strata = empty();
    let one = |name: &str, layers: &[&str]| {
        let image = layers.iter().fold(Image::busybox(), |image, layer| {
            image.layer(Layer::new().file(*layer, 0o644, *layer))
        });
        strata.load(&image.name(&format!("docker.io/library/{name}:latest")));
    };
    one("busybox", &[]);
    one("app", &["x", "app"]);
    one("tool", &["x", "tool1", "tool2"]);
    let tree = strata.ok(["images", "--tree"]);
    let lines: Vec<&str> = tree
        .lines()
        .map(|line| line.split("  ").next().unwrap_or(""))
        .collect();
    assert_eq!(lines, ["└ busybox:latest", "", "", ""], "{tree}");
    let names: Vec<&str> = tree
        .lines()
        .map(|line| line.trim_start_matches([' ', '├', '└', '│']))
        .collect();
    assert!(
        names[1].starts_with("(no image)  ") && names[1].contains("in 1 layer"),
        "{tree}"
    );
    assert!(
        names[2].starts_with("app:latest  ") && names[3].starts_with("tool:latest  "),
        "{tree}"
    );
    assert!(names[3].contains("in 2 layers"), "{tree}");
    let json: Value = serde_json::from_str(&strata.ok(["images", "--tree", "--format", "json"])).unwrap();
    assert_eq!(json[0]["Above"][0]["Above"][1]["Images"][0], "tool:latest");
}
