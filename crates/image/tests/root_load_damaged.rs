//! Loading what nobody should have written: nothing comes of it, and the error says what and where.

mod common;

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use common::Home;
use common::archive::{from_path, from_stream, image};
use image::install::InstallError;
use image::load::{LoadError, LoadProblem};
use serde_json::{Value, json};
use testkit::image::{hex, layout, write_files, write_tar};
use testkit::{Built, Compression, Layer};

type Files = Vec<(String, Vec<u8>)>;

#[test]
fn damaged_layouts() {
    let fail = |spoil: &dyn Fn(&Built, &mut Files)| -> LoadError {
        let built = image("x").build();
        let mut files = layout(
            &[&built],
            &[built.annotated("io.containerd.image.name", "quay.io/x:1")],
        );
        spoil(&built, &mut files);
        let dir = tempfile::tempdir().unwrap();
        let tar = dir.path().join("x.tar");
        write_tar(&tar, files.clone());
        write_files(&dir.path().join("x"), files);
        let mut errors = Vec::new();
        for (way, path) in [
            (from_path as fn(&Home, &Path) -> _, "x.tar"),
            (from_stream, "x.tar"),
            (from_path, "x"),
        ] {
            let home = Home::new();
            let error: LoadError = way(&home, &dir.path().join(path)).unwrap_err();
            assert_eq!(error.to_string().lines().count(), 1, "{error}");
            home.assert_empty();
            errors.push(error);
        }
        errors.swap_remove(0)
    };
    let remove = |name: &str, files: &mut Files| files.retain(|(n, _)| n != name);
    let edit = |name: &str, files: &mut Files, text: &str| {
        files.iter_mut().find(|(n, _)| n == name).unwrap().1 = text.as_bytes().to_vec();
    };
    let file = |digest: &str| format!("blobs/sha256/{}", digest.trim_start_matches("sha256:"));

    let error = fail(&|built, files| remove(&file(&built.layer(0)), files));
    assert!(matches!(*error.problem, LoadProblem::Missing { .. }), "{error:?}");
    let error = fail(&|built, files| remove(&file(&built.digest()), files));
    assert!(matches!(*error.problem, LoadProblem::Missing { .. }), "{error:?}");
    let error = fail(&|built, files| edit(&file(&built.id), files, "{}"));
    assert!(matches!(*error.problem, LoadProblem::Digest { .. }), "{error:?}");
    let error = fail(&|built, files| {
        let name = file(&built.layer(0));
        let blob = files.iter_mut().find(|(n, _)| *n == name).unwrap();
        blob.1[100] ^= 1;
    });
    let mismatch = |e: &InstallError| matches!(e, InstallError::Digest { .. });
    assert!(
        matches!(&*error.problem, LoadProblem::Install { source, .. } if mismatch(source)),
        "{error:?}"
    );
    let error = fail(&|built, files| {
        files
            .iter_mut()
            .find(|(n, _)| *n == file(&built.layer(1)))
            .unwrap()
            .1
            .push(0);
    });
    assert!(
        matches!(&*error.problem, LoadProblem::Install { source, .. }
        if matches!(**source, InstallError::Size { .. })),
        "{error:?}"
    );
    let error = fail(&|_, files| edit("index.json", files, "{"));
    assert!(
        matches!(*error.problem, LoadProblem::Manifest { .. }),
        "{error:?}"
    );
    let error = fail(&|_, files| edit("index.json", files, r#"{"schemaVersion":2,"manifests":[]}"#));
    assert!(matches!(*error.problem, LoadProblem::Empty), "{error:?}");
    let error = fail(&|_, files| edit("oci-layout", files, r#"{"imageLayoutVersion":"2.0.0"}"#));
    assert!(
        matches!(*error.problem, LoadProblem::Manifest { .. }),
        "{error:?}"
    );
    let error = fail(&|_, files| remove("index.json", files));
    assert!(
        matches!(&*error.problem, LoadProblem::Unknown { found } if found.contains(&"oci-layout".to_owned())),
        "{error:?}"
    );
    let error = fail(&|built, files| {
        let entries = [built.annotated("io.containerd.image.name", "Bad Name")];
        files.last_mut().unwrap().1 = layout(&[], &entries).pop().unwrap().1;
    });
    assert!(matches!(*error.problem, LoadProblem::Name { .. }), "{error:?}");
}

#[test]
fn damaged_docker_archives() {
    let built = image("x").build();
    let fail = |manifest: Value, files: Files| -> LoadProblem {
        let home = Home::new();
        let tar = home.dir.path().join("x.tar");
        write_tar(
            &tar,
            [
                files,
                vec![("manifest.json".into(), manifest.to_string().into_bytes())],
            ]
            .concat(),
        );
        let error = from_path(&home, &tar).unwrap_err();
        assert_eq!(error.to_string().lines().count(), 1, "{error}");
        home.assert_empty();
        let by_stream = from_stream(&home, &tar).unwrap_err();
        assert_eq!(
            std::mem::discriminant(&*by_stream.problem),
            std::mem::discriminant(&*error.problem)
        );
        *error.problem
    };
    let config = || ("config.json".to_owned(), built.blobs[&built.id].clone());
    let entry = |layers: Value| json!([{"Config": "config.json", "RepoTags": ["x:1"], "Layers": layers}]);
    let tar = |name: &str, n: usize| (name.to_owned(), built.tars[n].clone());

    assert!(matches!(
        fail(json!({}), vec![]),
        LoadProblem::DockerManifest { .. }
    ));
    assert!(matches!(fail(json!([]), vec![]), LoadProblem::Empty));
    assert!(matches!(
        fail(entry(json!(["a", "b"])), vec![]),
        LoadProblem::Missing { .. }
    ));
    assert!(matches!(
        fail(entry(json!(["a", "b"])), vec![config()]),
        LoadProblem::Missing { .. }
    ));
    assert!(matches!(
        fail(entry(json!(["a"])), vec![config(), tar("a", 0)]),
        LoadProblem::Config { .. }
    ));
    let swapped = fail(entry(json!(["a", "b"])), vec![config(), tar("a", 1), tar("b", 0)]);
    assert!(matches!(swapped, LoadProblem::Install { .. }), "{swapped:?}");
    let named = format!("{}.json", hex(b"something else"));
    let list = json!([{"Config": named, "RepoTags": null, "Layers": []}]);
    assert!(matches!(
        fail(list, vec![(named, config().1)]),
        LoadProblem::Digest { .. }
    ));
    let bad = json!([{"Config": "config.json", "RepoTags": ["UPPER"], "Layers": ["a", "b"]}]);
    assert!(matches!(
        fail(bad, vec![config(), tar("a", 0), tar("b", 1)]),
        LoadProblem::Name { .. }
    ));
}

#[test]
fn what_is_no_archive() {
    let home = Home::new();
    let write = |name: &str, bytes: &[u8]| -> PathBuf {
        let path = home.dir.path().join(name);
        File::create(&path).and_then(|mut f| f.write_all(bytes)).unwrap();
        path
    };
    let root_fs = Layer::new().dir("bin", 0o755).file("bin/sh", 0o755, "x").finish();
    let gzip = Compression::Gzip.compress(&root_fs);
    for (name, bytes) in [
        ("text", b"hello".repeat(1000)),
        ("short", b"hi".to_vec()),
        ("cut.gz", gzip[..gzip.len() - 9].to_vec()),
        ("xz", b"\xfd7zXZ\0 and so on".to_vec()),
        ("cut.tar", root_fs[..700].to_vec()),
    ] {
        let path = write(name, &bytes);
        for way in [from_path, from_stream] {
            let error = way(&home, &path).unwrap_err();
            let plain = matches!(name, "text" | "short");
            match *error.problem {
                LoadProblem::NotTar if plain => {}
                LoadProblem::Archive { .. } if !plain => {}
                _ => panic!("{name}: {error:?}"),
            }
            assert_eq!(error.to_string().lines().count(), 1, "{error}");
        }
    }
    for (name, bytes) in [
        ("rootfs.tar", root_fs.clone()),
        ("rootfs.tar.gz", gzip),
        ("empty", Vec::new()),
    ] {
        let path = write(name, &bytes);
        for way in [from_path, from_stream] {
            let error = way(&home, &path).unwrap_err();
            assert!(
                matches!(*error.problem, LoadProblem::Unknown { .. }),
                "{name}: {error:?}"
            );
        }
    }
    let error = from_path(&home, Path::new("/nonexistent/x.tar")).unwrap_err();
    assert!(matches!(*error.problem, LoadProblem::Open { .. }), "{error:?}");
    let dir = home.dir.path().join("dir");
    fs::DirBuilder::new().create(&dir).unwrap();
    assert!(matches!(
        *from_path(&home, &dir).unwrap_err().problem,
        LoadProblem::Unknown { .. }
    ));
    home.assert_empty();
}

#[test]
fn a_layout_directory_leads_nowhere_else() {
    let home = Home::new();
    let dir = home.dir.path().join("layout");
    let built = image("x").build();
    image("quay.io/x:1").write_layout(&dir);
    let blob = dir.join(format!(
        "blobs/sha256/{}",
        built.layer(0).trim_start_matches("sha256:")
    ));
    let outside = home.dir.path().join("outside");
    fs::rename(&blob, &outside).unwrap();
    std::os::unix::fs::symlink(&outside, &blob).unwrap();
    let error = from_path(&home, &dir).unwrap_err();
    assert!(matches!(*error.problem, LoadProblem::Read { .. }), "{error:?}");
    home.assert_empty();
}
