//! The operations on snapshots; their story is told in `snapshot.rs`.
//!
//! A directory is made and filled before the transaction that names it, and removed after the one that forgets it.

use std::io;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use mount::Mount;
use rustix::fs::Mode;
use sys::Dir;

use crate::db::{Durability, Query, int};
use crate::error::Fault;
use crate::layout::{NOTHING, SNAPSHOTS, WORK};
use crate::open::now;
use crate::own::Claim;
use crate::snapshot::{self, *};
use crate::stack::{self, Lower};
use crate::usage::usage_from;
use crate::{Store, Usage, root};

/// What [`Store::forget`] asks and does.
const CHILD: &str = "SELECT key FROM snapshots WHERE parent = ?";
const DELETE: &str = "DELETE FROM snapshots WHERE id = ?";
const NEEDED: &str = "SELECT 1 FROM layers WHERE n = ?1 UNION ALL SELECT 1 FROM snapshots WHERE n = ?1";
pub(crate) const FORGET: [&str; 3] = [CHILD, DELETE, NEEDED];

impl Store {
    /// Makes an active snapshot on the committed snapshot `parent`, and tells what to mount to write in it.
    pub fn prepare(
        &self,
        ns: &str,
        key: &str,
        parent: Option<&str>,
        options: &PrepareOptions,
    ) -> Result<Vec<Mount>, SnapshotError> {
        self.make(ns, key, Kind::Active, parent, options)
    }

    /// Makes a read-only snapshot on the committed snapshot `parent`, and tells what to mount to look at it.
    pub fn view(
        &self,
        ns: &str,
        key: &str,
        parent: Option<&str>,
        options: &PrepareOptions,
    ) -> Result<Vec<Mount>, SnapshotError> {
        self.make(ns, key, Kind::View, parent, options)
    }

    fn make(
        &self,
        ns: &str,
        key: &str,
        kind: Kind,
        parent: Option<&str>,
        options: &PrepareOptions,
    ) -> Result<Vec<Mount>, SnapshotError> {
        let draft = self.draft(ns, key, kind, parent, options)?;
        let durability = durability(options.ephemeral);
        let written = self.db.write(durability, |q| draft.insert(q));
        match written {
            Ok(()) => Ok(draft.finish(self)),
            Err(SnapshotError::Fault(fault)) => Err(draft.give_up(fault).into()),
            Err(refused) => Err(refused),
        }
    }

    /// What to mount for an active snapshot or a view, as it was told when it was made.
    pub fn mounts(&self, ns: &str, key: &str) -> Result<Vec<Mount>, SnapshotError> {
        self.mounts_on(ns, key, |_| ())
    }

    /// As [`Store::mounts`], over what `beneath` adds to the lower directories.
    pub(crate) fn mounts_on(
        &self,
        ns: &str,
        key: &str,
        beneath: impl FnOnce(&mut Vec<Lower>),
    ) -> Result<Vec<Mount>, SnapshotError> {
        let (row, mut lowers) = self.made_of(ns, key)?;
        beneath(&mut lowers);
        Ok(stack::mounts(&self.layout, row.kind, row.n, &row.how, &lowers))
    }

    /// As [`Store::mounts`], once the directory is there of an active snapshot that a power cut took it from before
    /// anything in it was on disk ([`PrepareOptions::remade`]).
    pub fn mounts_again(&self, ns: &str, key: &str) -> Result<Vec<Mount>, SnapshotError> {
        let (row, lowers) = self.made_of(ns, key)?;
        if let Some(n) = row.n {
            self.make_again(n, &lowers)?;
        }
        if lowers.iter().any(|lower| matches!(lower, Lower::Nothing)) {
            self.make_nothing()?;
        }
        Ok(stack::mounts(&self.layout, row.kind, row.n, &row.how, &lowers))
    }

    /// Makes the directory of a row, unless it is there. As it has a row, nobody else takes it.
    fn make_again(&self, n: u64, lowers: &[Lower]) -> Result<(), Fault> {
        let (snapshots, name) = (self.layout.snapshots()?, n.to_string());
        let unfinished = || -> io::Result<Option<Dir>> {
            let dir = match snapshots.open_dir(&name) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    match snapshots.mkdir(&name, Mode::RWXU) {
                        // Another asks for it at the same time.
                        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                        _ => snapshots.open_dir(&name)?,
                    }
                }
                other => other?,
            };
            Ok(dir.try_stat(WORK)?.is_none().then_some(dir))
        };
        match unfinished().map_err(|e| self.number_fault("making", n, e))? {
            Some(dir) => root::make(&self.layout, &dir, lowers).map(drop),
            None => Ok(()),
        }
    }

    /// The row of what has mounts, and what lies beneath it.
    fn made_of(&self, ns: &str, key: &str) -> Result<(SnapshotRow, Vec<Lower>), SnapshotError> {
        self.db.look(|q| {
            let row = snapshot::get(q, ns, key)?;
            if row.kind == Kind::Committed {
                return Err(SnapshotError::precondition(
                    key,
                    "committed snapshots have no mounts",
                ));
            }
            let mut lowers = row.parent.map_or(Ok(Vec::new()), |id| stack::lowers(q, id))?;
            lowers.extend(row.lower.clone().map(Lower::from));
            Ok((row, lowers))
        })
    }

    /// Whether an overlay stands on the empty directory of [`PrepareOptions::apart`].
    pub fn is_apart(&self, overlay: &Mount) -> bool {
        mount::overlay::Overlay::parse(&overlay.options).lower == [self.layout.at(NOTHING)]
    }

    /// Makes the active snapshot `key` a committed one called `name`, once its data is on disk. What it was mounted
    /// as must not be written any more.
    pub fn commit(
        &self,
        ns: &str,
        name: &str,
        key: &str,
        options: &CommitOptions,
    ) -> Result<(), SnapshotError> {
        check_key(ns, name)?;
        check_labels(name, &options.labels)?;
        let active = |q: &Query<'_>| {
            let row = snapshot::get(q, ns, key)?;
            match (row.kind, row.n) {
                (Kind::Active, Some(n)) => Ok((row, n)),
                _ => Err(SnapshotError::precondition(
                    key,
                    "only an active snapshot can be committed",
                )),
            }
        };
        let (before, n) = self.db.read(active)?;
        // Locked, its number cannot be used for another meanwhile.
        let _claim = self.claim_soon(n)?.ok_or_else(|| {
            SnapshotError::precondition(key, "another process is committing or removing it")
        })?;
        let usage = Usage::of(&self.layer_dir(n)?).map_err(|e| self.number_fault("measuring", n, e))?;
        self.sync_disk()?;
        self.db.write(Durability::Full, |q| {
            let (row, _) = active(q)?;
            if (row.id, row.created) != (before.id, before.created) {
                return Err(SnapshotError::precondition(
                    key,
                    "it was replaced while it was committed",
                ));
            }
            if snapshot::find(q, ns, name)?.is_some() {
                return Err(SnapshotError::AlreadyExists(name.to_owned()));
            }
            let parent = match &options.parent {
                None => row.parent,
                Some(wanted) => {
                    let parent = snapshot::get(q, ns, wanted)?;
                    if row.parent.is_some_and(|id| id != parent.id) {
                        return Err(SnapshotError::invalid(key, "its parent cannot be changed"));
                    }
                    if parent.kind != Kind::Committed {
                        return Err(SnapshotError::precondition(wanted, "a parent must be committed"));
                    }
                    Some(parent.id)
                }
            };
            q.run(
                "UPDATE snapshots SET key = ?, kind = ?, parent = ?, labels = ?, created = ?5, updated = ?5,
                   bytes = ?, apparent = ?, inodes = ?, ephemeral = 0, lower = nullif(lower, ?) WHERE id = ?",
                (
                    name,
                    Kind::Committed,
                    parent,
                    labels_to(&options.labels),
                    now(),
                    int(usage.bytes),
                    int(usage.apparent),
                    int(usage.inodes),
                    NOTHING,
                    row.id,
                ),
            )?;
            Ok(())
        })
    }

    /// The lock of a directory's number, which a collector has for a moment while it looks whose it is.
    fn claim_soon(&self, n: u64) -> Result<Option<Claim<'_>>, SnapshotError> {
        let deadline = Instant::now() + Duration::from_secs(2);
        loop {
            let claim = Claim::of_number(&self.layout, n)?;
            if claim.is_some() || Instant::now() > deadline {
                return Ok(claim);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Forgets a snapshot that nothing stands on, then removes its directory. What is mounted of it must have been
    /// unmounted.
    pub fn remove(&self, ns: &str, key: &str) -> Result<(), SnapshotError> {
        let ephemeral = self.db.read(|q| snapshot::get(q, ns, key))?.ephemeral;
        let claim = self.forget_alone(ns, key, None, durability(ephemeral))?;
        self.take_away(claim)
    }

    /// As [`Store::remove`], but only as it was when it had changed last at `updated`: one that was changed, given again, or
    /// made by its key since is not there for this.
    pub fn remove_unchanged(&self, ns: &str, key: &str, updated: Timestamp) -> Result<(), SnapshotError> {
        let claim = self.forget_alone(ns, key, Some(updated), Durability::Full)?;
        self.take_away(claim)
    }

    /// As [`Store::remove`], but its directory is left to [`Store::collect`]: for who must not be held up by a large one.
    /// Nothing is synced either: where a power cut takes the removal back, the snapshot is there again, and whole, since
    /// the collector makes sure of what it goes by before it takes anything from the disk.
    pub fn remove_later(&self, ns: &str, key: &str) -> Result<(), SnapshotError> {
        self.forget_alone(ns, key, None, Durability::Relaxed).map(drop)
    }

    fn forget_alone(
        &self,
        ns: &str,
        key: &str,
        updated: Option<Timestamp>,
        durability: Durability,
    ) -> Result<Option<Claim<'_>>, SnapshotError> {
        self.free(durability, |q| {
            let row = snapshot::get(q, ns, key)?;
            if let Some(updated) = updated
                && stat(q, ns, key)?.updated != updated
            {
                return Err(SnapshotError::NotFound(key.to_owned()));
            }
            let holder = "SELECT name FROM containers WHERE ns = ? AND cid = ?";
            if let Some(name) = q.one(holder, (ns, key), |row| row.get::<_, String>(0))? {
                let why = format!("cannot remove the snapshot of container {name:?}");
                return Err(SnapshotError::precondition(key, why));
            }
            if row.held_by_image {
                let why = "cannot remove a snapshot that an image holds; remove the image";
                return Err(SnapshotError::precondition(key, why));
            }
            self.forget(q, &row, key)
        })
    }

    /// Deletes a snapshot's row. If nothing else needs its directory, answers that, locked, for
    /// [`Store::take_away`].
    pub(crate) fn forget(
        &self,
        q: &Query<'_>,
        row: &SnapshotRow,
        key: &str,
    ) -> Result<Option<Claim<'_>>, SnapshotError> {
        if let Some(child) = q.one(CHILD, (row.id,), |row| row.get::<_, String>(0))? {
            let why = format!("cannot remove a snapshot that {child:?} stands on");
            return Err(SnapshotError::precondition(key, why));
        }
        q.run(DELETE, (row.id,))?;
        let Some(n) = row.n else { return Ok(None) };
        if q.one(NEEDED, (int(n),), |_| Ok(()))?.is_some() {
            return Ok(None);
        }
        // Nobody locks what a row names, but for a moment; if somebody does, the collector finds it later.
        Ok(Claim::of_number(&self.layout, n)?)
    }

    /// Removes from the disk what a durable transaction forgot.
    pub(crate) fn take_away(&self, claim: Option<Claim<'_>>) -> Result<(), SnapshotError> {
        let Some(claim) = claim else { return Ok(()) };
        let path = self.layout.at(SNAPSHOTS).join(claim.name());
        claim.remove().map_err(|e| Fault::io("removing", path, e))?;
        self.layout.refill_reserve();
        Ok(())
    }

    /// What is known of a snapshot.
    pub fn stat(&self, ns: &str, key: &str) -> Result<Info, SnapshotError> {
        self.db.look(|q| stat(q, ns, key))
    }

    /// Changes a snapshot's labels and tells how it is now. `fields` is containerd's field mask: `labels` replaces
    /// all, `labels.<name>` sets one, and empty means `labels`. A label set to nothing is deleted.
    pub fn update(
        &self,
        ns: &str,
        key: &str,
        labels: &Labels,
        fields: &[&str],
    ) -> Result<Info, SnapshotError> {
        check_labels(key, labels)?;
        let fields = if fields.is_empty() { &["labels"] } else { fields };
        self.db.write(Durability::Full, |q| {
            let row = snapshot::get(q, ns, key)?;
            let mut now_has = stat(q, ns, key)?.labels;
            for field in fields {
                match (*field, field.strip_prefix("labels.")) {
                    ("labels", _) => now_has = labels.clone(),
                    (_, Some(name)) => {
                        now_has.insert(name.to_owned(), labels.get(name).cloned().unwrap_or_default());
                    }
                    _ => return Err(SnapshotError::invalid(key, format!("{field} cannot be changed"))),
                }
            }
            now_has.retain(|_, value| !value.is_empty());
            q.run(
                "UPDATE snapshots SET labels = ?, updated = max(?, created) WHERE id = ?",
                (labels_to(&now_has), now(), row.id),
            )?;
            stat(q, ns, key)
        })
    }

    /// At most `limit` snapshots of a namespace whose keys come after `after`, by key: a page, so that a listing of
    /// any length holds no lock and little memory.
    pub fn list(&self, ns: &str, after: Option<&str>, limit: usize) -> Result<Vec<Info>, Fault> {
        let sql = format!("{INFO} WHERE s.ns = ? AND s.key > ? ORDER BY s.key LIMIT ?");
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        // No key is empty.
        self.db
            .read(|q| q.all(&sql, (ns, after.unwrap_or_default(), limit), info))
    }

    /// Calls `visit` for each snapshot of a namespace, by key, until it fails. Nothing is locked meanwhile: it may
    /// ask the store, and sees what others make and remove in between or does not.
    pub fn walk<E: From<Fault>>(
        &self,
        ns: &str,
        mut visit: impl FnMut(Info) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut after = None;
        loop {
            let page = self.list(ns, after.as_deref(), 100)?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.key.clone());
            for info in page {
                visit(info)?;
            }
        }
    }

    /// What a snapshot takes itself, without what it stands on. Recorded of committed ones; of active ones the
    /// directory is walked.
    pub fn usage(&self, ns: &str, key: &str) -> Result<Usage, SnapshotError> {
        self.usage_until(ns, key, None)
    }

    /// As [`Store::usage`]; an error of the kind `TimedOut` where a writable directory is so large that it would take longer
    /// than `until`.
    pub fn usage_until(&self, ns: &str, key: &str, until: Option<Instant>) -> Result<Usage, SnapshotError> {
        let (row, recorded) = self.db.read(|q| {
            let row = snapshot::get(q, ns, key)?;
            let sql = "SELECT coalesce(l.bytes, s.bytes), coalesce(l.apparent, s.apparent),
                              coalesce(l.inodes, s.inodes)
                       FROM snapshots s LEFT JOIN layers l ON l.n = s.n
                       WHERE s.id = ? AND coalesce(l.bytes, s.bytes) IS NOT NULL";
            let usage = q.one(sql, (row.id,), |r| usage_from(r, 0))?;
            Ok::<_, SnapshotError>((row, usage))
        })?;
        match (recorded, row.n) {
            (Some(usage), _) => Ok(usage),
            (None, None) => Ok(Usage::default()),
            (None, Some(n)) => {
                let usage = Usage::of_until(&self.layer_dir(n)?, until);
                Ok(usage.map_err(|e| self.number_fault("measuring", n, e))?)
            }
        }
    }

    pub(crate) fn number_fault(&self, what: &'static str, n: u64, error: std::io::Error) -> Fault {
        Fault::io(what, self.layout.of_number(n, ""), error)
    }
}

pub(crate) fn durability(ephemeral: bool) -> Durability {
    match ephemeral {
        true => Durability::Relaxed,
        false => Durability::Full,
    }
}

fn stat(q: &Query<'_>, ns: &str, key: &str) -> Result<Info, SnapshotError> {
    q.one(&format!("{INFO} WHERE s.ns = ? AND s.key = ?"), (ns, key), info)?
        .ok_or_else(|| SnapshotError::NotFound(key.to_owned()))
}

pub(crate) fn check_key(ns: &str, key: &str) -> Result<(), SnapshotError> {
    match ns.is_empty() || key.is_empty() {
        true => Err(SnapshotError::invalid(
            key,
            "a namespace and a key may not be empty",
        )),
        false => Ok(()),
    }
}

pub(crate) fn check_labels(key: &str, labels: &Labels) -> Result<(), SnapshotError> {
    match labels
        .iter()
        .find(|(name, value)| name.len() + value.len() > MAX_LABEL)
    {
        Some((name, _)) => {
            let head: String = name.chars().take(40).collect();
            Err(SnapshotError::invalid(
                key,
                format!("label {head:?} has more than {MAX_LABEL} bytes"),
            ))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::layout::FS;

    fn remade() -> PrepareOptions {
        PrepareOptions {
            remade: true,
            ..PrepareOptions::default()
        }
    }

    #[test]
    fn a_directory_that_a_power_cut_took_is_made_again() {
        let temp = tempfile::tempdir().unwrap();
        let store = Store::open(temp.path()).unwrap();
        store.prepare("ns", "work", None, &remade()).unwrap();
        let root = std::fs::Permissions::from_mode(0o1777);
        std::fs::set_permissions(store.layout.of_number(1, FS), root).unwrap();
        store
            .commit("ns", "base", "work", &CommitOptions::default())
            .unwrap();
        let told = store.prepare("ns", "run", Some("base"), &remade()).unwrap();
        let dir = store.layout.at(SNAPSHOTS).join("2");
        // All of it, or what was made last.
        for lost in ["", WORK] {
            std::fs::remove_dir_all(dir.join(lost)).unwrap();
            assert_eq!(store.mounts("ns", "run").unwrap(), told);
            assert!(!dir.join(WORK).exists());
            assert_eq!(store.mounts_again("ns", "run").unwrap(), told);
            assert!(dir.join(WORK).is_dir());
            let mode = std::fs::metadata(dir.join(FS)).unwrap().permissions().mode();
            assert_eq!(mode & 0o7777, 0o1777, "as the root below it");
        }
        // So is that of a view of nothing, and what stands on nothing.
        let told = store.view("ns", "look", None, &remade()).unwrap();
        std::fs::remove_dir_all(store.layout.at(SNAPSHOTS).join("3")).unwrap();
        assert_eq!(store.mounts_again("ns", "look").unwrap(), told);
        assert!(store.layout.of_number(3, FS).is_dir());
        let apart = PrepareOptions {
            apart: true,
            ..remade()
        };
        store.prepare("ns", "apart", None, &apart).unwrap();
        std::fs::remove_dir(store.layout.at(NOTHING)).unwrap();
        store.mounts_again("ns", "apart").unwrap();
        assert!(store.layout.at(NOTHING).is_dir());
        // What is there is left alone.
        std::fs::write(dir.join("fs/file"), "x").unwrap();
        store.mounts_again("ns", "run").unwrap();
        assert!(dir.join("fs/file").exists());
        let refused = store.mounts_again("ns", "base");
        assert!(matches!(refused, Err(SnapshotError::FailedPrecondition { .. })));
    }

    #[test]
    fn a_commit_waits_for_a_collector_that_looks_whose_a_directory_is() {
        let temp = tempfile::tempdir().unwrap();
        let store = Store::open(temp.path()).unwrap();
        store.prepare("ns", "work", None, &remade()).unwrap();
        let looks = Claim::take(store.layout.snapshots().unwrap(), "1")
            .unwrap()
            .unwrap();
        std::thread::scope(|scope| {
            let commit = scope.spawn(|| store.commit("ns", "base", "work", &CommitOptions::default()));
            std::thread::sleep(Duration::from_millis(50));
            assert!(!commit.is_finished());
            drop(looks);
            commit.join().unwrap().unwrap();
        });
        // Whoever keeps it is no collector.
        store.prepare("ns", "next", None, &remade()).unwrap();
        let _keeps = Claim::take(store.layout.snapshots().unwrap(), "2")
            .unwrap()
            .unwrap();
        let began = Instant::now();
        let refused = store.commit("ns", "never", "next", &CommitOptions::default());
        assert!(
            matches!(refused, Err(SnapshotError::FailedPrecondition { .. })),
            "{refused:?}"
        );
        assert!(began.elapsed() >= Duration::from_secs(2));
    }

    #[test]
    fn what_is_removed_for_later_is_whole_until_it_is_collected() {
        let temp = tempfile::tempdir().unwrap();
        let store = Store::open(temp.path()).unwrap();
        store.prepare("ns", "work", None, &remade()).unwrap();
        let file = store.layout.of_number(1, FS).join("file");
        std::fs::write(&file, "x").unwrap();
        store.remove_later("ns", "work").unwrap();
        assert!(matches!(
            store.stat("ns", "work"),
            Err(SnapshotError::NotFound(_))
        ));
        assert!(file.exists());
        store.collect().unwrap();
        assert!(!file.exists());
    }
}
