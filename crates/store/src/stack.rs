//! The stack of directories that a snapshot is made of, and the mounts it gives.

use std::path::{Path, PathBuf};

use mount::Mount;

use crate::db::Query;
use crate::error::Fault;
use crate::layout::{FS, Layout, NOTHING, WORK};
use crate::snapshot::{How, Kind};

/// One lower directory of a stack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Lower {
    /// `snapshots/<n>/fs`, and whether its root directory's attributes count.
    Number { n: u64, root_counts: bool },
    /// A directory that is no snapshot's.
    Foreign(PathBuf),
    /// An empty directory: an overlay needs something beneath.
    Nothing,
}

impl From<String> for Lower {
    /// What column `lower` says.
    fn from(text: String) -> Lower {
        match text == NOTHING {
            true => Lower::Nothing,
            false => Lower::Foreign(text.into()),
        }
    }
}

impl Lower {
    pub(crate) fn path(&self, layout: &Layout) -> PathBuf {
        match self {
            Lower::Number { n, .. } => layout.of_number(*n, FS),
            Lower::Foreign(path) => path.clone(),
            Lower::Nothing => layout.at(NOTHING),
        }
    }
}

/// The directories of the snapshot with row `id` and of all it stands on, topmost first.
///
/// A directory that occurs twice is told once, in its topmost place: overlayfs refuses the same directory twice
/// (`ELOOP`), and whatever the lower occurrence holds, whiteouts included, the upper one holds as well.
pub(crate) fn lowers(q: &Query<'_>, id: i64) -> Result<Vec<Lower>, Fault> {
    let mut lowers: Vec<Lower> = Vec::new();
    let mut seen = std::collections::HashSet::new();
    let mut next = Some(id);
    while let Some(id) = next {
        let sql = "SELECT parent, n, lower, ifnull((SELECT root_listed FROM layers WHERE layers.n = snapshots.n), 1)
                   FROM snapshots WHERE id = ?";
        let (parent, n, foreign, root_counts) = q
            .one(sql, (id,), |row| {
                Ok((
                    row.get::<_, Option<i64>>(0)?,
                    row.get::<_, Option<i64>>(1)?,
                    row.get::<_, Option<String>>(2)?,
                    row.get::<_, bool>(3)?,
                ))
            })?
            .ok_or_else(|| q.corrupt(format!("there is no snapshot {id}, which another stands on")))?;
        if let Some(n) = n.and_then(|n| u64::try_from(n).ok())
            && seen.insert(n)
        {
            lowers.push(Lower::Number { n, root_counts });
        }
        lowers.extend(foreign.map(Lower::from));
        next = parent;
    }
    Ok(lowers)
}

/// What to mount for a view or an active snapshot with directory `n`, over `lowers`. Options come in containerd's
/// order: id mapping, work, upper, lower, how it is written, `index=off`.
pub(crate) fn mounts(layout: &Layout, kind: Kind, n: Option<u64>, how: &How, lowers: &[Lower]) -> Vec<Mount> {
    let lowers: Vec<PathBuf> = lowers.iter().map(|lower| lower.path(layout)).collect();
    let mut mount = match (kind, n, &lowers[..]) {
        (Kind::Active, Some(n), []) => Mount::bind(&layout.of_number(n, FS), false),
        (Kind::Active, Some(n), lowers) => {
            let (upper, work) = (layout.of_number(n, FS), layout.of_number(n, WORK));
            overlay(lowers, Some((&upper, &work)), how)
        }
        (_, Some(n), []) => Mount::bind(&layout.of_number(n, FS), true),
        (_, _, [only]) => Mount::bind(only, true),
        (_, _, lowers) => overlay(lowers, None, how),
    };
    let maps = [("uidmap", &how.uid_map), ("gidmap", &how.gid_map)];
    let maps = maps
        .into_iter()
        .filter_map(|(name, map)| Some(format!("{name}={}", map.as_ref()?)));
    mount.options.splice(0..0, maps);
    vec![mount]
}

fn overlay(lowers: &[PathBuf], writable: Option<(&Path, &Path)>, how: &How) -> Mount {
    let lowers: Vec<&Path> = lowers.iter().map(PathBuf::as_path).collect();
    let switch = |on: bool, yes: &'static str, no: &'static str| if on { yes } else { no };
    let extra: Vec<&str> = [
        how.redirect_dir
            .map(|on| switch(on, "redirect_dir=on", "redirect_dir=off")),
        how.metacopy.map(|on| switch(on, "metacopy=on", "metacopy=off")),
        (how.volatile && writable.is_some()).then_some("volatile"),
        how.userxattr.then_some("userxattr"),
        Some("index=off"),
    ]
    .into_iter()
    .flatten()
    .collect();
    Mount::overlay(&lowers, writable, &extra)
}
