//! What the manifests in use need, and what is freed when one of them goes.

use std::collections::HashMap;

use store::{Digest, Disk};

/// Which layers and blobs the manifests in use need.
pub(super) struct Needs<'a> {
    disk: &'a Disk,
    /// How many names and containers lead to each manifest.
    users: HashMap<Digest, u64>,
    layers: HashMap<u64, Need>,
    blobs: HashMap<Digest, Need>,
    /// Bytes of all that is needed.
    pub(super) total: u64,
}

struct Need {
    bytes: u64,
    count: u64,
}

impl Needs<'_> {
    pub(super) fn new(disk: &Disk, users: HashMap<Digest, u64>) -> Needs<'_> {
        let need = |bytes| Need { bytes, count: 0 };
        let mut needs = Needs {
            layers: disk
                .layers
                .iter()
                .map(|it| (it.n, need(it.usage.bytes + it.overhead)))
                .collect(),
            blobs: disk.blobs.iter().map(|it| (it.digest, need(it.bytes))).collect(),
            disk,
            users,
            total: 0,
        };
        for manifest in disk
            .manifests
            .iter()
            .filter(|it| needs.users.contains_key(&it.digest))
        {
            each(&mut needs.layers, &mut needs.blobs, manifest, |need| {
                needs.total += if need.count == 0 { need.bytes } else { 0 };
                need.count += 1;
            });
        }
        for n in &disk.beneath {
            if let Some(need) = needs.layers.get_mut(n) {
                need.count += 1;
            }
        }
        needs
    }

    /// Takes so many users from a manifest; the bytes that nothing needs then.
    pub(super) fn release(&mut self, digest: &Digest, users: u64) -> u64 {
        let Some(left) = self.users.get_mut(digest) else {
            return 0;
        };
        *left = left.saturating_sub(users);
        if *left > 0 {
            return 0;
        }
        self.users.remove(digest);
        let mut freed = 0;
        for manifest in self.disk.manifests.iter().filter(|it| it.digest == *digest) {
            each(&mut self.layers, &mut self.blobs, manifest, |need| {
                need.count = need.count.saturating_sub(1);
                freed += if need.count == 0 { need.bytes } else { 0 };
            });
        }
        self.total = self.total.saturating_sub(freed);
        freed
    }

    pub(super) fn needs_blob(&self, digest: &Digest) -> bool {
        self.blobs.get(digest).is_some_and(|need| need.count > 0)
    }

    /// Bytes of what nothing needs.
    pub(super) fn idle(&self) -> u64 {
        let needs = self.layers.values().chain(self.blobs.values());
        needs.filter(|need| need.count == 0).map(|need| need.bytes).sum()
    }
}

/// Does something to all that a manifest needs and that is there.
fn each(
    layers: &mut HashMap<u64, Need>,
    blobs: &mut HashMap<Digest, Need>,
    manifest: &store::ManifestDisk,
    mut what: impl FnMut(&mut Need),
) {
    for n in &manifest.layers {
        if let Some(need) = layers.get_mut(n) {
            what(need);
        }
    }
    for digest in &manifest.blobs {
        if let Some(need) = blobs.get_mut(digest) {
            what(need);
        }
    }
}
