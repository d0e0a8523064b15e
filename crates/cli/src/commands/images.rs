//! `strata images`: the images of the namespace.

use std::io::{self, Write};

use clap::Args;
use engine::Engine;
use engine::images::Image;
use engine::tree::Node;
use jiff::Timestamp;

use super::{Context, Outcome, print};
use crate::failure::Failure;
use crate::render::filter::{Filters, KeyValue};
use crate::render::style::Style;
use crate::render::table::Table;
use crate::render::template::{self, Field, ListFormat};
use crate::render::time::ago;
use crate::render::{self, size};

/// List images
#[derive(Debug, Args)]
pub(crate) struct ImagesArgs {
    /// Only images of this name, with or without a tag; * and ? stand for what is not /
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Those of build steps too, of which strata has none: what is listed is all
    #[arg(short, long, hide = true)]
    all: bool,
    /// Only ids
    #[arg(short, long)]
    quiet: bool,
    /// Whole ids
    #[arg(long)]
    no_trunc: bool,
    /// Show the digest of each manifest
    #[arg(long)]
    digests: bool,
    /// Draw each image on the one whose layers it begins with
    #[arg(long, conflicts_with_all = ["name", "quiet", "digests"])]
    tree: bool,
    /// Only what fits: reference=PATTERN, dangling=BOOL, label=KEY[=VALUE], before=IMAGE, since=IMAGE
    #[arg(short, long, value_name = "FILTER")]
    filter: Vec<KeyValue>,
    /// Form of the output: table, json, or fields such as '{{.Repository}}:{{.Tag}}'
    #[arg(long, value_name = "FORM", default_value = "table")]
    format: ListFormat,
}

pub(crate) fn run(context: &Context, args: ImagesArgs) -> Outcome {
    if args.tree {
        return tree(context, &args);
    }
    let engine = context.engine()?;
    let is_pattern = |name: &&str| name.contains(['*', '?']);
    let pattern = args.name.as_deref().filter(is_pattern);
    let name = args.name.as_deref().filter(|name| !is_pattern(name));
    let mut images = keep(&engine, &args.filter, engine.images(name)?)?;
    images.retain(|image| pattern.is_none_or(|pattern| fits(pattern, image)));
    let now = Timestamp::now();
    let lines = match &args.format {
        ListFormat::Template(template) => {
            template.lines(&fields(args.no_trunc, now), None, "IMAGE ID", &images)?
        }
        _ => Vec::new(),
    };
    print(|out| match (args.quiet, &args.format) {
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
        (_, ListFormat::Json) => render::json(out, &images),
        (_, ListFormat::Template(_)) => template::write(out, &lines),
        (_, ListFormat::Table) => table(&images, &args, now).write(out, context.style),
    })
}

/// Keeps of the images those that fit.
fn keep(engine: &Engine, given: &[KeyValue], mut images: Vec<Image>) -> Result<Vec<Image>, Failure> {
    let filters = Filters::new(
        given,
        &["reference", "dangling", "label", "label!", "before", "since"],
    )?;
    let dangling = filters.truth("dangling")?;
    // When the image was built that others are compared with.
    let built = |key: &str| -> Result<Option<Option<Timestamp>>, Failure> {
        let name = filters.values(key).last();
        Ok(name.map(|name| engine.image_created(name)).transpose()?)
    };
    let (before, since) = (built("before")?, built("since")?);
    if filters.has("label") || filters.has("label!") {
        let mut fit = Vec::new();
        for image in images {
            if filters.labels(&engine.image_labels(&image.name)?) {
                fit.push(image);
            }
        }
        images = fit;
    }
    images.retain(|image| {
        filters.any("reference", |pattern| fits(pattern, image))
            && dangling.is_none_or(|dangling| dangling == image.name.starts_with("sha256:"))
            && before.is_none_or(|other| image.created < other)
            && since.is_none_or(|other| image.created > other)
    });
    Ok(images)
}

/// Whether an image's repository, or that with its tag, fits a pattern.
fn fits(pattern: &str, image: &Image) -> bool {
    let (repository, tag) = named(image);
    matches(pattern, &repository) || matches(pattern, &format!("{repository}:{tag}"))
}

/// Whether a text fits a pattern in which `*` is anything but `/`, and `?` one such character.
fn matches(pattern: &str, text: &str) -> bool {
    match (pattern.chars().next(), text.chars().next()) {
        (None, None) => true,
        (Some('*'), first) => {
            matches(&pattern[1..], text)
                || first.is_some_and(|c| c != '/' && matches(pattern, &text[c.len_utf8()..]))
        }
        (Some(wanted), Some(c)) if wanted == c || (wanted == '?' && c != '/') => {
            matches(&pattern[wanted.len_utf8()..], &text[c.len_utf8()..])
        }
        _ => false,
    }
}

fn tree(context: &Context, args: &ImagesArgs) -> Outcome {
    let nodes = context.engine()?.image_tree()?;
    match &args.format {
        ListFormat::Json => print(|out| render::json(out, &nodes)),
        ListFormat::Table => print(|out| draw(out, &nodes, "", args.no_trunc, context.style)),
        ListFormat::Template(_) => {
            Err(Failure::user("--tree has no fields").hint("leave --format out, or write --format json"))
        }
    }
}

fn draw(out: &mut dyn Write, nodes: &[Node], indent: &str, full: bool, style: Style) -> io::Result<()> {
    for (place, node) in nodes.iter().enumerate() {
        let last = place + 1 == nodes.len();
        let (branch, below) = if last { ("└ ", "  ") } else { ("├ ", "│ ") };
        let names = match node.images.is_empty() {
            true => style.dim("(no image)").to_string(),
            false => style.bold(node.images.join(", ")).to_string(),
        };
        let layers = if node.layers == 1 {
            "1 layer".to_owned()
        } else {
            format!("{} layers", node.layers)
        };
        let id = node
            .ids
            .first()
            .map(|id| format!("  {}", style.dim(render::id(id, full))));
        let size = size::human(node.bytes);
        writeln!(
            out,
            "{indent}{branch}{names}  {size} in {layers}{}",
            id.unwrap_or_default()
        )?;
        draw(out, &node.above, &format!("{indent}{below}"), full, style)?;
    }
    Ok(())
}

/// Repository and tag as lists show them; an image that was loaded without a name is stored under its ID.
fn named(image: &Image) -> (String, String) {
    let none = || "<none>".to_owned();
    match image.name.starts_with("sha256:") {
        true => (none(), none()),
        false => (image.repository.clone(), image.tag.clone().unwrap_or_else(none)),
    }
}

/// Docker's names for what a template shows.
fn fields(full: bool, now: Timestamp) -> [Field<Image>; 7] {
    [
        ("ID", Box::new(move |i| render::id(&i.id, full).to_owned())),
        ("Repository", Box::new(|i| named(i).0)),
        ("Tag", Box::new(|i| named(i).1)),
        ("Digest", Box::new(|i| i.digest.clone())),
        (
            "CreatedAt",
            Box::new(|i| i.created.map_or_else(|| "N/A".to_owned(), |at| at.to_string())),
        ),
        ("CreatedSince", Box::new(move |i| ago(i.created, now))),
        ("Size", Box::new(|i| size::human(i.size))),
    ]
}

fn table(images: &[Image], args: &ImagesArgs, now: Timestamp) -> Table {
    let heads: &[_] = match args.digests {
        true => &["REPOSITORY", "TAG", "DIGEST", "IMAGE ID", "CREATED", "SIZE"],
        false => &["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"],
    };
    let mut table = Table::new(heads);
    for image in images {
        let (repository, tag) = named(image);
        let mut row = vec![repository, tag];
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

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns_of_names() {
        for (pattern, text, fits) in [
            ("busybox", "busybox", true),
            ("busy*", "busybox:1", true),
            ("*/busybox", "quay.io/busybox", true),
            ("*", "quay.io/busybox", false),
            ("busybox:?", "busybox:1", true),
            ("busybox:?", "busybox:12", false),
        ] {
            assert_eq!(matches(pattern, text), fits, "{pattern} {text}");
        }
    }
}
