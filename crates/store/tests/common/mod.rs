//! What the store's tests share: images out of nothing, the invariants, and the store as a snapshotter.

#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::Path;

use mount::Mount;
use store::{
    CommitOptions, Container, Descriptor, Digest, ImageLayer, ImageRecord, Info, Labels, LayerMeta, Lease,
    PrepareOptions, SnapshotError, Store, Usage,
};
use testkit::snapshotter::Snapshotter;

/// Brings a blob of type `text/plain`.
pub(crate) fn blob(store: &Store, lease: &Lease, content: &str) -> Descriptor {
    let digest = store.put_blob(lease, content.as_bytes()).unwrap();
    Descriptor {
        media_type: "text/plain".into(),
        digest,
        size: content.len() as u64,
    }
}

/// Brings an image whose layers have these contents, the base first. Layers that are there are used. `None` when a
/// layer or blob vanished in between, which only a missing lease could do.
pub(crate) fn record(store: &Store, lease: &Lease, contents: &[&str]) -> ImageRecord {
    let mut below = None;
    let mut layers = Vec::new();
    for content in contents {
        let diff_id = Digest::of(content);
        let chain_id = Digest::chain(below.as_ref(), &diff_id);
        let layer = match store.hold_layer(lease, &diff_id, &chain_id).unwrap() {
            Some(layer) => layer,
            None => {
                let new = store.new_layer(lease).unwrap();
                let flags = rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY;
                let mode = rustix::fs::Mode::RUSR;
                let mut file = new.fs().open_file("content", flags, mode).unwrap();
                file.write_all(content.as_bytes()).unwrap();
                new.record().unwrap();
                let usage = Usage::of(new.fs()).unwrap();
                let meta = LayerMeta {
                    diff_id,
                    chain_id,
                    depends_on_below: false,
                    root_listed: true,
                    usage,
                };
                store.commit_layers(lease, vec![(new, meta)]).unwrap().remove(0)
            }
        };
        layers.push(ImageLayer {
            blob: blob(store, lease, content),
            diff_id,
            chain_id,
            layer_n: layer.n,
            created_by: Some(format!("echo {content}")),
        });
        below = Some(chain_id);
    }
    let manifest = blob(store, lease, &format!("manifest of {contents:?}"));
    let config = blob(store, lease, &format!("config of {contents:?}"));
    store.settle(lease).unwrap();
    ImageRecord {
        target: manifest.clone(),
        manifest,
        config,
        os: "linux".into(),
        architecture: "amd64".into(),
        variant: None,
        created: None,
        layers,
    }
}

/// Brings such an image and gives it a name.
pub(crate) fn image(store: &Store, ns: &str, name: &str, contents: &[&str]) -> ImageRecord {
    let lease = store.lease(&format!("test {name}")).unwrap();
    let record = record(store, &lease, contents);
    store.put_image(&lease, ns, name, &record).unwrap();
    store.release(lease).unwrap();
    record
}

/// A container id from a number.
pub(crate) fn id(number: u64) -> String {
    format!("{number:064x}")
}

/// A container of an image.
pub(crate) fn container(number: u64, name: &str, record: Option<&ImageRecord>) -> Container {
    Container {
        ns: "default".into(),
        id: id(number),
        name: name.into(),
        image: record.map(|_| "docker.io/library/a:latest".into()),
        manifest: record.map(|record| record.manifest.digest),
        labels: Default::default(),
        created: jiff::Timestamp::from_second(i64::try_from(number).unwrap()).unwrap(),
        ephemeral: false,
        details: serde_json::json!({"argv": ["sh"]}),
    }
}

/// Key of an image's topmost snapshot.
pub(crate) fn top(record: &ImageRecord) -> String {
    record.layers.last().unwrap().chain_id.to_string()
}

/// Options with nothing in them.
pub(crate) fn plain() -> PrepareOptions {
    PrepareOptions::default()
}

/// What a store may never be found in, killed or not: a row without what it names. And, when `settled` (nobody is
/// busy and a collection without grace has run): nothing on disk without a row, and no lease.
pub(crate) fn check(root: &Path, settled: bool) -> Vec<String> {
    let db = rusqlite::Connection::open(root.join("metadata.db")).unwrap();
    let strings = |sql: &str| -> BTreeSet<String> {
        let mut statement = db.prepare(sql).unwrap();
        let rows = statement.query_map((), |row| row.get::<_, String>(0)).unwrap();
        rows.collect::<Result<_, _>>().unwrap()
    };
    let names = |rel: &str| -> BTreeSet<String> {
        fs::read_dir(root.join(rel))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    };
    let mut wrong = Vec::new();
    let mut compare = |what: &str, rows: BTreeSet<String>, disk: BTreeSet<String>, exact: bool| {
        wrong.extend(
            rows.difference(&disk)
                .map(|name| format!("{what} {name}: row without its thing")),
        );
        if settled && exact {
            wrong.extend(
                disk.difference(&rows)
                    .map(|name| format!("{what} {name}: nobody's")),
            );
        }
    };
    // Rows first: what is committed is on disk, while what is on disk may still be on its way.
    let numbers = strings(
        "SELECT CAST(n AS TEXT) FROM layers UNION SELECT CAST(n AS TEXT) FROM snapshots WHERE n IS NOT NULL",
    );
    let blobs = strings("SELECT substr(digest, 8) FROM blobs");
    let leases = strings("SELECT id FROM leases");
    let directories = names("snapshots");
    for name in &directories {
        let fs = root.join("snapshots").join(name).join("fs");
        if numbers.contains(name) && !fs.is_dir() {
            compare("fs of", BTreeSet::from([name.clone()]), BTreeSet::new(), false);
        }
    }
    compare("directory", numbers, directories, true);
    for name in &blobs {
        let content = fs::read(root.join("content/blobs/sha256").join(name)).unwrap_or_default();
        if Digest::of(content).hex() != *name {
            compare(
                "content of blob",
                BTreeSet::from([name.clone()]),
                BTreeSet::new(),
                false,
            );
        }
    }
    compare("blob", blobs, names("content/blobs/sha256"), true);
    if settled {
        compare("lease", leases.clone(), BTreeSet::new(), true);
        compare("lease", BTreeSet::new(), names("leases"), true);
        compare("ingest", BTreeSet::new(), names("content/ingest"), true);
    }
    let broken = strings("SELECT \"table\" FROM pragma_foreign_key_check");
    wrong.extend(broken.into_iter().map(|table| format!("foreign key of {table}")));
    let integrity = strings("SELECT integrity_check FROM pragma_integrity_check");
    wrong.extend(integrity.into_iter().filter(|line| line != "ok"));
    wrong
}

/// A namespace of a store of its own, as the contract suite sees it.
pub(crate) struct Subject {
    store: Store,
    _temp: tempfile::TempDir,
}

impl Subject {
    pub(crate) fn new() -> Subject {
        let temp = tempfile::tempdir().unwrap();
        let store = Store::open(&temp.path().join("store")).unwrap();
        // Another namespace with the same keys, which must not matter.
        store.prepare("other", "active", None, &plain()).unwrap();
        store.prepare("other", "base", None, &plain()).unwrap();
        Subject { store, _temp: temp }
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.store.collect_older_than(std::time::Duration::ZERO).unwrap();
            assert_eq!(check(self.store.root(), true), Vec::<String>::new());
        }
    }
}

impl Snapshotter for Subject {
    fn prepare(&self, key: &str, parent: Option<&str>, labels: &Labels) -> Result<Vec<Mount>, SnapshotError> {
        let options = PrepareOptions {
            labels: labels.clone(),
            ..plain()
        };
        self.store.prepare("ns", key, parent, &options)
    }

    fn view(&self, key: &str, parent: Option<&str>, labels: &Labels) -> Result<Vec<Mount>, SnapshotError> {
        let options = PrepareOptions {
            labels: labels.clone(),
            ..plain()
        };
        self.store.view("ns", key, parent, &options)
    }

    fn mounts(&self, key: &str) -> Result<Vec<Mount>, SnapshotError> {
        self.store.mounts("ns", key)
    }

    fn commit(
        &self,
        name: &str,
        key: &str,
        labels: &Labels,
        parent: Option<&str>,
    ) -> Result<(), SnapshotError> {
        let options = CommitOptions {
            labels: labels.clone(),
            parent: parent.map(str::to_owned),
        };
        self.store.commit("ns", name, key, &options)
    }

    fn remove(&self, key: &str) -> Result<(), SnapshotError> {
        self.store.remove("ns", key)
    }

    fn stat(&self, key: &str) -> Result<Info, SnapshotError> {
        self.store.stat("ns", key)
    }

    fn update(&self, key: &str, labels: &Labels, fields: &[&str]) -> Result<Info, SnapshotError> {
        self.store.update("ns", key, labels, fields)
    }

    fn walk(&self, visit: &mut dyn FnMut(Info)) -> Result<(), SnapshotError> {
        self.store.walk("ns", |info| {
            visit(info);
            Ok(())
        })
    }

    fn usage(&self, key: &str) -> Result<Usage, SnapshotError> {
        self.store.usage("ns", key)
    }

    fn cleanup(&self) -> Result<(), SnapshotError> {
        Ok(self.store.collect().map(drop)?)
    }
}
