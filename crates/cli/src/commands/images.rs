//! `strata images`: the images of the namespace.

use clap::Args;
use engine::images::Image;
use jiff::Timestamp;

use super::{Context, Outcome, print};
use crate::render::table::Table;
use crate::render::time::ago;
use crate::render::{self, Format, size};

/// List images
#[derive(Debug, Args)]
pub(crate) struct ImagesArgs {
    /// Only images of this name, with or without a tag
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Only ids
    #[arg(short, long)]
    quiet: bool,
    /// Whole ids
    #[arg(long)]
    no_trunc: bool,
    /// Show the digest of each manifest
    #[arg(long)]
    digests: bool,
    /// Form of the output
    #[arg(long, value_name = "FORM", default_value = "table")]
    format: Format,
}

pub(crate) fn run(context: &Context, args: ImagesArgs) -> Outcome {
    let images = context.engine()?.images(args.name.as_deref())?;
    print(|out| match (args.quiet, args.format) {
        (true, _) => {
            let mut told = Vec::new();
            for image in images.iter().map(|i| &i.id) {
                if !told.contains(&image) {
                    told.push(image);
                    writeln!(out, "{}", render::id(image, args.no_trunc))?;
                }
            }
            Ok(())
        }
        (_, Format::Json) => render::json(out, &images),
        (_, Format::Table) => table(&images, &args, Timestamp::now()).write(out, context.style),
    })
}

fn table(images: &[Image], args: &ImagesArgs, now: Timestamp) -> Table {
    let heads: &[_] = match args.digests {
        true => &["REPOSITORY", "TAG", "DIGEST", "IMAGE ID", "CREATED", "SIZE"],
        false => &["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"],
    };
    let mut table = Table::new(heads);
    for image in images {
        let none = || "<none>".to_owned();
        // An image that was loaded without a name is stored under its ID.
        let nameless = image.name.starts_with("sha256:");
        let mut row = match nameless {
            true => vec![none(), none()],
            false => vec![image.repository.clone(), image.tag.clone().unwrap_or_else(none)],
        };
        if args.digests {
            row.push(image.digest.clone());
        }
        row.push(render::id(&image.id, args.no_trunc).to_owned());
        row.push(ago(image.created, now));
        row.push(size::human(image.size));
        table.row(row);
    }
    table
}
