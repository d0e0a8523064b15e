//! `strata snapshot`: what containerd keeps in the store, looked at.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;
use engine::snapshots::{Snapshot, own_name};

use super::diff::write_changes;
use super::{Context, Outcome, print};
use crate::progress;
use crate::render::size::human;
use crate::render::style::Style;
use crate::render::table::Table;
use crate::render::{self, Format, time};

/// List the snapshots of other engines
#[derive(Debug, Args)]
pub(crate) struct LsArgs {
    /// Of all namespaces
    #[arg(short, long)]
    all_namespaces: bool,
    /// Only keys
    #[arg(short, long)]
    quiet: bool,
    /// Form of the output
    #[arg(long, value_name = "FORM", default_value = "table")]
    format: Format,
}

/// Show which snapshots stand on which
#[derive(Debug, Args)]
pub(crate) struct TreeArgs {
    /// Of all namespaces
    #[arg(short, long)]
    all_namespaces: bool,
}

/// Show what snapshots take on disk, each without what it stands on
#[derive(Debug, Args)]
pub(crate) struct UsageArgs {
    /// Snapshots, by key or the beginning of one (all of the namespace where none is named)
    #[arg(value_name = "SNAPSHOT")]
    names: Vec<String>,
    /// Form of the output
    #[arg(long, value_name = "FORM", default_value = "table")]
    format: Format,
}

/// Show what a snapshot changed of what it stands on
///
/// A is added, C changed, D deleted.
#[derive(Debug, Args)]
pub(crate) struct SnapshotDiffArgs {
    /// A snapshot, by key or the beginning of one; a container's by the container's id
    #[arg(value_name = "SNAPSHOT")]
    name: String,
    /// Form of the output
    #[arg(long, value_name = "FORM", default_value = "table")]
    format: Format,
}

/// Mount what a snapshot shows at a directory, to look at: read-only, whoever runs on it
///
/// `strata umount` takes it away.
#[derive(Debug, Args)]
pub(crate) struct SnapshotMountArgs {
    /// A snapshot, by key or the beginning of one; a container's by the container's id
    #[arg(value_name = "SNAPSHOT")]
    name: String,
    /// The directory
    #[arg(value_name = "DIR")]
    target: PathBuf,
}

pub(crate) fn ls(context: &Context, args: LsArgs) -> Outcome {
    let snapshots = context.engine()?.snapshots(args.all_namespaces)?;
    let now = jiff::Timestamp::now();
    print(|out| match (args.quiet, args.format) {
        (true, _) => snapshots
            .iter()
            .try_for_each(|found| writeln!(out, "{}", found.key)),
        (_, Format::Json) => render::json(out, &snapshots),
        (_, Format::Table) => {
            let mut table = Table::new(&["KEY", "KIND", "PARENT", "CREATED"]);
            for found in &snapshots {
                table.row([
                    short(&found.key),
                    found.kind.to_owned(),
                    found.parent.as_deref().map(short).unwrap_or_default(),
                    time::ago(Some(found.created), now),
                ]);
            }
            table.write(out, context.style)
        }
    })
}

pub(crate) fn tree(context: &Context, args: &TreeArgs) -> Outcome {
    let snapshots = context.engine()?.snapshots(args.all_namespaces)?;
    // By namespace and parent; what stands on something that is not another engine's begins a tree of its own.
    let known: BTreeMap<(&str, &str), &Snapshot> = snapshots
        .iter()
        .map(|found| ((&*found.namespace, &*found.key), found))
        .collect();
    let mut above: BTreeMap<Option<(&str, &str)>, Vec<&Snapshot>> = BTreeMap::new();
    for found in &snapshots {
        let parent = found.parent.as_deref().map(|parent| (&*found.namespace, parent));
        above
            .entry(parent.filter(|parent| known.contains_key(parent)))
            .or_default()
            .push(found);
    }
    print(|out| {
        for root in above.get(&None).into_iter().flatten() {
            // Chains are as long as images have layers: not by calls within calls.
            let mut ahead = vec![(*root, String::new(), String::new())];
            while let Some((found, lead, indent)) = ahead.pop() {
                line(out, &lead, found, context.style)?;
                let children = above.get(&Some((&*found.namespace, &*found.key)));
                let children = children.map_or(&[][..], Vec::as_slice);
                for (place, child) in children.iter().enumerate().rev() {
                    let (tee, bar) = if place + 1 == children.len() {
                        ("└ ", "  ")
                    } else {
                        ("├ ", "│ ")
                    };
                    ahead.push((child, format!("{indent}{tee}"), format!("{indent}{bar}")));
                }
            }
        }
        Ok(())
    })
}

fn line(out: &mut dyn Write, lead: &str, found: &Snapshot, style: Style) -> io::Result<()> {
    let kind = match found.kind {
        "committed" => String::new(),
        kind => format!("  {}", style.green(kind)),
    };
    writeln!(out, "{lead}{}{kind}", render::plain::plain(&short(&found.key)))
}

/// A key with the digests in it cut, as ids are elsewhere.
fn short(key: &str) -> String {
    let name = own_name(key);
    let before = &key[..key.len() - name.len()];
    let words = name.split(' ').map(|word| match word.strip_prefix("sha256:") {
        Some(hex) if hex.len() == 64 => format!("sha256:{}", render::id(hex, false)),
        _ if word.len() == 64 && word.bytes().all(|b| b.is_ascii_hexdigit()) => {
            render::id(word, false).to_owned()
        }
        _ => word.to_owned(),
    });
    format!("{before}{}", words.collect::<Vec<_>>().join(" "))
}

pub(crate) fn usage(context: &Context, args: UsageArgs) -> Outcome {
    let told = context.engine()?.snapshot_usage(&args.names)?;
    print(|out| match args.format {
        Format::Json => render::json(out, &told),
        Format::Table => {
            let mut table = Table::new(&["KEY", "SIZE", "INODES"]);
            for one in &told {
                table.row([
                    short(&one.key),
                    human(one.usage.bytes),
                    one.usage.inodes.to_string(),
                ]);
            }
            table.write(out, context.style)
        }
    })
}

pub(crate) fn diff(context: &Context, args: SnapshotDiffArgs) -> Outcome {
    let progress = progress::choose(false, progress::READ);
    let changes = context.engine()?.snapshot_diff(&args.name, &*progress)?;
    drop(progress);
    write_changes(&changes, args.format, context.style)
}

pub(crate) fn mount(context: &Context, args: &SnapshotMountArgs) -> Outcome {
    context.engine()?.mount_snapshot(&args.name, &args.target)?;
    Ok(0)
}
