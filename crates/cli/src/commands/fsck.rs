//! `strata fsck`: checks the store, and mends it.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;
use engine::fsck::{Finding, Forgotten, FsckOptions, Report};
use snapshotter::forgotten::{Kept, forgotten};

use super::{Context, Outcome, print};
use crate::render::plain::plain;
use crate::render::style::Style;
use crate::render::{self, Format};
use crate::{progress, registries};

/// Check the store, layers against their records, and what runs against what is mounted; and mend it
///
/// A layer that is damaged and not mended is marked: the next pull or load of an image with it replaces it.
///
/// Exit codes are those of fsck(8): 0 nothing is wrong, 1 all that was wrong is mended, 4 something is left, 8 it could
/// not be checked.
#[derive(Debug, Args)]
pub(crate) struct FsckArgs {
    /// Read every blob and file, and compare owners, modes, times, attributes and links too: each layer is unpacked once
    /// more for it, without the content of files
    #[arg(long)]
    deep: bool,
    /// Mend what is wrong: unpack layers anew from their own files, their blobs or their registry, fetch manifests and
    /// configurations again, unmount and give back what containers that ended left, remove what nobody owns
    #[arg(long)]
    repair: bool,
    /// Fetch nothing
    #[arg(long, requires = "repair")]
    offline: bool,
    /// Remove images, containers and volumes that cannot be mended, and snapshots that containerd has forgotten
    #[arg(long, requires = "repair")]
    remove: bool,
    /// Ask the containerd at this socket, and tell which of its snapshots it has forgotten
    #[arg(long, value_name = "SOCKET", num_args = 0..=1, require_equals = true, default_missing_value = CONTAINERD)]
    containerd: Option<PathBuf>,
    /// What that containerd calls strata
    #[arg(long, value_name = "NAME", default_value = "strata", requires = "containerd")]
    snapshotter: String,
    /// Form of the output
    #[arg(long, value_name = "FORM", default_value = "table")]
    format: Format,
}

/// Where containerd is, unless somebody says otherwise.
pub(super) const CONTAINERD: &str = "/run/containerd/containerd.sock";

/// Everything that was wrong is mended.
const MENDED: u8 = 1;
/// Something is still wrong.
const LEFT: u8 = 4;
/// The check itself failed.
const FAILED: u8 = 8;

pub(crate) fn run(context: &Context, args: FsckArgs) -> Outcome {
    check(context, &args).map_err(|failure| failure.code(FAILED))
}

fn check(context: &Context, args: &FsckArgs) -> Outcome {
    let options = FsckOptions {
        deep: args.deep,
        repair: args.repair,
        remove: args.remove,
    };
    let fetch = (args.repair && !args.offline).then(|| registries::options(&context.settings, None));
    let progress = progress::choose(false, progress::FETCH);
    let engine = context.engine()?;
    let mut report = engine.fsck(&options, fetch, &*progress)?;
    drop(progress);
    if let Some(socket) = &args.containerd {
        let kept = engine.snapshots(true)?.into_iter().map(|found| Kept {
            ns: found.namespace,
            key: found.key,
            created: found.created,
            updated: found.updated,
        });
        let forgotten = forgotten(socket, &args.snapshotter, kept.collect(), jiff::Timestamp::now())?;
        let forgotten = forgotten.into_iter().map(|one| Forgotten {
            ns: one.ns,
            key: one.key,
            updated: one.updated,
        });
        engine.tell_forgotten(&mut report, forgotten.collect(), args.remove);
    }
    print(|out| match args.format {
        Format::Json => render::json(out, &report),
        Format::Table => write(out, &report, args, context.style),
    })?;
    Ok(match (report.findings.is_empty(), report.left()) {
        (true, _) => 0,
        (false, 0) => MENDED,
        (false, _) => LEFT,
    })
}

fn write(out: &mut dyn Write, report: &Report, args: &FsckArgs, style: Style) -> io::Result<()> {
    report
        .findings
        .iter()
        .try_for_each(|found| finding(out, found, style))?;
    if args.deep && !report.compared {
        writeln!(
            out,
            "owners, modes, times and attributes were not compared: the store cannot be written"
        )?;
    }
    let how = if args.deep { "read" } else { "looked at" };
    writeln!(
        out,
        "{} layers, {} blobs and {} containers {how}: {}",
        report.layers,
        report.blobs,
        report.containers,
        match (report.findings.len(), report.left()) {
            (0, _) => "nothing is wrong".to_owned(),
            (wrong, 0) => format!("{wrong} wrong, all mended"),
            (wrong, left) if args.repair => format!("{wrong} wrong, {left} not mended"),
            (wrong, _) => format!("{wrong} wrong; --repair mends what can be mended"),
        }
    )
}

fn finding(out: &mut dyn Write, found: &Finding, style: Style) -> io::Result<()> {
    writeln!(
        out,
        "{} {}: {}",
        found.kind,
        style.bold(plain(&found.name)),
        plain(&found.what)
    )?;
    for detail in &found.details {
        writeln!(out, "  {}", plain(detail))?;
    }
    match (&found.mended, &found.left) {
        (Some(how), _) => writeln!(out, "  {} {how}", style.green("mended:")),
        (None, Some(why)) => writeln!(out, "  {} {why}", style.red("not mended:")),
        (None, None) => Ok(()),
    }
}
