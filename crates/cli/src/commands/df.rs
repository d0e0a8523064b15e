//! `strata df`: what lies in the store, who shares it, and what could be freed.

use std::io::{self, Write};

use clap::Args;
use engine::df::{DiskUse, Sum};
use jiff::Timestamp;

use super::{Context, Outcome, print};
use crate::render::size::human;
use crate::render::table::Table;
use crate::render::time::ago;
use crate::render::{self, Format};

/// Show what images, layers, containers and volumes take on disk, and what could be freed
///
/// Sizes are those on disk, of all namespaces, and add up to what du says of the store. Shared is what several images
/// need; freeable is what goes with the images that no container was made from, the containers that do not run, the
/// volumes that no container uses, and what was left over.
#[derive(Debug, Args)]
pub(crate) struct DfArgs {
    /// Tell each image, layer, container and volume too
    #[arg(short, long)]
    verbose: bool,
    /// Form of the output
    #[arg(long, value_name = "FORM", default_value = "table")]
    format: Format,
}

pub(crate) fn run(context: &Context, args: DfArgs) -> Outcome {
    let told = context.engine()?.df(args.verbose)?;
    print(|out| match args.format {
        Format::Json => render::json(out, &told),
        Format::Table => write(out, &told, context),
    })
}

fn write(out: &mut dyn Write, told: &DiskUse, context: &Context) -> io::Result<()> {
    let mut table = Table::new(&["TYPE", "TOTAL", "ACTIVE", "SIZE", "SHARED", "UNIQUE", "FREEABLE"]);
    for (kind, sum) in [
        ("Images", &told.images),
        ("  layers", &told.layers),
        ("  blobs", &told.blobs),
        ("Containers", &told.containers),
        ("Volumes", &told.volumes),
    ] {
        table.row(row(kind, sum));
    }
    if told.snapshots.count > 0 {
        table.row(row("Snapshots", &told.snapshots));
    }
    let plain = |kind: &str, bytes: u64, freeable: u64| {
        let nothing = String::new;
        [
            kind.to_owned(),
            nothing(),
            nothing(),
            human(bytes),
            nothing(),
            nothing(),
            human(freeable),
        ]
    };
    table.row(plain("Left over", told.left_over, told.left_over));
    table.row(plain("Store itself", told.own, 0));
    table.row(plain("All", told.total, told.freeable));
    table.write(out, context.style)?;
    if told.saved_by_dedup > 0 {
        writeln!(
            out,
            "\n{} of it are saved: equal files of several layers share blocks",
            human(told.saved_by_dedup)
        )?;
    }
    let Some(details) = &told.details else {
        return Ok(());
    };
    let now = Timestamp::now();
    let mut images = Table::new(&[
        "IMAGE",
        "IMAGE ID",
        "SIZE",
        "SHARED",
        "UNIQUE",
        "FREEABLE",
        "CONTAINERS",
        "USED",
    ]);
    for image in &details.images {
        images.row([
            image.names.join(", "),
            render::id(&image.id, false).to_owned(),
            human(image.bytes),
            human(image.shared),
            human(image.unique),
            human(image.freeable),
            image.containers.to_string(),
            ago(Some(image.used), now),
        ]);
    }
    let mut layers = Table::new(&["LAYER", "NUMBER", "SIZE", "FILES", "IMAGES", "FREEABLE"]);
    for layer in &details.layers {
        layers.row([
            render::id(&layer.diff_id, false).to_owned(),
            layer.number.to_string(),
            human(layer.bytes),
            layer.inodes.to_string(),
            layer.images.to_string(),
            human(layer.freeable),
        ]);
    }
    let mut containers = Table::new(&[
        "CONTAINER",
        "CONTAINER ID",
        "IMAGE",
        "STATE",
        "SIZE",
        "FILES",
        "FREEABLE",
    ]);
    for container in &details.containers {
        containers.row([
            container.name.clone(),
            render::id(&container.id, false).to_owned(),
            container.image.clone().unwrap_or_else(|| "-".to_owned()),
            container.state.to_owned(),
            human(container.bytes),
            container.inodes.to_string(),
            human(container.freeable),
        ]);
    }
    let mut volumes = Table::new(&["VOLUME", "CONTAINERS", "SIZE", "FILES", "FREEABLE"]);
    for volume in &details.volumes {
        volumes.row([
            render::cut(&volume.name, 40),
            volume.containers.to_string(),
            human(volume.bytes),
            volume.inodes.to_string(),
            human(volume.freeable),
        ]);
    }
    for table in [images, layers, containers, volumes] {
        writeln!(out)?;
        table.write(out, context.style)?;
    }
    Ok(())
}

fn row(kind: &str, sum: &Sum) -> [String; 7] {
    [
        kind.to_owned(),
        sum.count.to_string(),
        sum.active.to_string(),
        human(sum.bytes),
        human(sum.shared),
        human(sum.unique),
        human(sum.freeable),
    ]
}
