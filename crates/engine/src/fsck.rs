//! `fsck`: the store held against itself, layers against their records, what runs against what is mounted; and mended.
//!
//! What is wrong is mended by the gentlest means that gives back what was there: a layer is unpacked anew from its own
//! record, else from its blob, else from its blob fetched again; a blob is fetched again, or forgotten where a layer gives
//! it back; what nobody owns is removed. What is still wanted, and cannot be had again, is left for its owner to decide
//! on, or removed when asked to.

mod layers;
mod mend;
mod state;

use image::progress::{Event, Progress};
use image::registry::Client;
use jiff::Timestamp;
use serde::Serialize;
use store::{Fault, Wrong};

use crate::Engine;
use crate::mounted::Mounted;
use crate::pull::Registries;

/// How the store is checked.
#[derive(Debug, Clone, Default)]
pub struct FsckOptions {
    /// Read every blob and every file, and compare owners, modes, times, attributes and links of layers with what their
    /// tars say, by unpacking each once more, without the data of its files.
    pub deep: bool,
    /// Mend what is wrong.
    pub repair: bool,
    /// Remove images, containers and volumes that cannot be mended.
    pub remove: bool,
}

/// A snapshot that containerd does not know any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forgotten {
    /// Its namespace.
    pub ns: String,
    /// Its key.
    pub key: String,
    /// When it was changed last: one that was changed or made since is not meant.
    pub updated: Timestamp,
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Finding {
    /// What kind of thing it is: `database`, `blob`, `layer`, `snapshot`, `volume`, `container`, `mount` or `orphan`.
    pub kind: &'static str,
    /// Which one.
    pub name: String,
    /// What is wrong with it.
    pub what: String,
    /// What of it, one by one: of a layer, files.
    pub details: Vec<String>,
    /// How it was mended.
    pub mended: Option<String>,
    /// Why it was not, where that was tried.
    pub left: Option<String>,
}

/// What was checked, and what was found.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Report {
    /// Layers.
    pub layers: u64,
    /// Blobs.
    pub blobs: u64,
    /// Containers.
    pub containers: u64,
    /// Whether owners, modes, times, attributes and links were compared: not where nothing can be written.
    pub compared: bool,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

impl Report {
    /// How much was not mended.
    pub fn left(&self) -> usize {
        self.findings
            .iter()
            .filter(|found| found.mended.is_none())
            .count()
    }
}

impl Finding {
    fn new(kind: &'static str, name: impl Into<String>, what: impl Into<String>) -> Finding {
        Finding {
            kind,
            name: name.into(),
            what: what.into(),
            details: Vec::new(),
            mended: None,
            left: None,
        }
    }
}

impl Engine {
    /// Adds to a report the snapshots that containerd does not know any more; removes them where that is asked, but for
    /// those that something runs on: one containerd may be asked, and another have made them.
    pub fn tell_forgotten(&self, report: &mut Report, forgotten: Vec<Forgotten>, remove: bool) {
        let found = |one: &Forgotten| {
            Finding::new(
                "snapshot",
                format!("{} ({})", one.key, one.ns),
                "containerd does not know it",
            )
        };
        let mounted = Mounted::now();
        let try_it = |one: &Forgotten| match self.store.stat(&one.ns, &one.key) {
            Ok(info) if mounted.has(&self.store, &one.ns, &info) => Err(
                "it is mounted: something runs on it, and whoever made it has to let go of it first"
                    .to_owned(),
            ),
            _ => self
                .store
                .remove_unchanged(&one.ns, &one.key, one.updated)
                .map_err(|error| error.to_string()),
        };
        let mut left = forgotten;
        // What others stand on goes after them: it is tried again as long as something goes.
        let mut before = usize::MAX;
        while remove && left.len() < before {
            before = left.len();
            left.retain(|one| {
                let removed = try_it(one).is_ok();
                if removed {
                    report.findings.push(Finding {
                        mended: Some("removed".to_owned()),
                        ..found(one)
                    });
                }
                !removed
            });
        }
        for one in left {
            let left = remove.then(|| try_it(&one).err()).flatten();
            report.findings.push(Finding { left, ..found(&one) });
        }
    }

    /// Checks the store, and the containers of all namespaces; with [`FsckOptions::repair`] mends what is wrong. Blobs that
    /// are damaged are fetched again with `registries`; without it nothing is fetched.
    ///
    /// # Errors
    /// Disk or database: what could not be checked at all.
    pub fn fsck(
        &self,
        options: &FsckOptions,
        registries: Option<Registries>,
        progress: &dyn Progress,
    ) -> Result<Report, Fault> {
        let counts = self.store.counts()?;
        let mut report = Report {
            layers: counts.layers,
            blobs: counts.blobs,
            containers: counts.containers,
            ..Report::default()
        };
        let mender = mend::Mender {
            engine: self,
            options,
            client: registries.map(Client::new),
            lease: match (options.repair, options.deep) {
                (true, _) => Some(self.store.lease("fsck")?),
                // Where nothing can be written there is nothing to compare with.
                (false, true) => self.store.lease("fsck").ok(),
                (false, false) => None,
            },
        };
        report.compared = mender.compares();
        let what = "checking blobs";
        let told = |done, of| {
            let of = Some(of);
            progress.event(&Event::Step { what, done, of });
        };
        let wrong = self.store.check(options.deep, &told)?;
        let missing: Vec<u64> = wrong
            .iter()
            .filter_map(|wrong| match wrong {
                Wrong::LayerMissing { layer, .. } => Some(layer.n),
                _ => None,
            })
            .collect();
        // Blobs first: a layer may be mended from one.
        for wrong in wrong {
            let found = mender.wrong(wrong)?;
            report.findings.push(found);
        }
        let mut layers = self.store.layers()?;
        layers.retain(|layer| !missing.contains(&layer.n));
        self.check_layers(&layers, &mender, progress, &mut report.findings)?;
        self.check_state(options, &mut report.findings)?;
        if let Some(lease) = mender.lease {
            self.store.release(lease)?;
        }
        if options.repair {
            // Orphans, and what the mending itself replaced.
            self.store.collect()?;
            for found in report.findings.iter_mut().filter(|found| found.kind == "orphan") {
                match self.store.root().join(&found.name).symlink_metadata().is_err() {
                    true => found.mended = Some("removed".to_owned()),
                    false => found.left = Some("somebody is using it".to_owned()),
                }
            }
        }
        Ok(report)
    }
}
