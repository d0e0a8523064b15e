//! `strata layers`: the stack beneath a container, an image or a snapshot, drawn as it lies: top first.

use std::io::{self, Write};

use clap::Args;
use engine::layers::{Layer, Stack};
use engine::snapshots::own_name;

use super::{Context, Outcome, print};
use crate::render::style::Style;
use crate::render::{self, Format, size};

/// Show the stack of layers beneath a container, an image, or a snapshot of containerd's
///
/// From the top: the merged view that a container's process sees, the directory that takes its writes, and each
/// read-only layer with its size, the build step that made it, and who else uses it.
#[derive(Debug, Args)]
pub(crate) struct LayersArgs {
    /// A container or an image, by name or the beginning of its id, or a snapshot, as strata snapshot takes it
    #[arg(value_name = "CONTAINER|IMAGE|SNAPSHOT")]
    name: String,
    /// Whole digests and build steps
    #[arg(long)]
    no_trunc: bool,
    /// Form of the output
    #[arg(long, value_name = "FORM", default_value = "table")]
    format: Format,
}

pub(crate) fn run(context: &Context, args: LayersArgs) -> Outcome {
    let stack = context.engine()?.layers(&args.name)?;
    print(|out| match args.format {
        Format::Json => render::json(out, &stack),
        Format::Table => draw(out, &stack, args.no_trunc, context.style),
    })
}

/// Width of the words before each path.
const LABEL: usize = 9;

fn draw(out: &mut dyn Write, stack: &Stack, full: bool, style: Style) -> io::Result<()> {
    write!(out, "{} {}", stack.kind.word(), style.bold(&stack.name))?;
    if let Some(image) = &stack.image {
        write!(out, " of {image}")?;
    }
    writeln!(out, "  {}", style.dim(render::id(&stack.id, full)))?;
    if let Some(merged) = &stack.merged {
        let state = if merged.mounted { "" } else { "  (not mounted)" };
        label(out, "┌", "merged", style)?;
        writeln!(out, "{}{state}", merged.path.display())?;
        writeln!(out, "│")?;
    }
    if let Some(writable) = &stack.writable {
        label(out, "├", "writable", style)?;
        writeln!(out, "{}", style.green(writable.path.display()))?;
        line(out, "│", &size_of(writable.bytes, writable.inodes, None), style)?;
        writeln!(out, "│")?;
    }
    let count = stack.layers.len();
    for (place, layer) in stack.layers.iter().enumerate() {
        let last = place + 1 == count && stack.mount_points.is_none();
        let (tee, bar) = if last { ("└", " ") } else { ("├", "│") };
        label(out, tee, &format!("layer {}", count - place), style)?;
        writeln!(out, "{}", layer.path.display())?;
        facts(out, bar, layer, full, style)?;
        if !last {
            writeln!(out, "│")?;
        }
    }
    if let Some(path) = &stack.mount_points {
        label(out, "└", "places", style)?;
        writeln!(out, "{}", path.display())?;
        line(
            out,
            " ",
            "what /proc, /etc/hosts and the like are mounted on",
            style,
        )?;
    } else if count == 0 {
        writeln!(out, "└ no layer below")?;
    }
    writeln!(out)?;
    writeln!(out, "{}", totals(stack))
}

fn label(out: &mut dyn Write, bar: &str, text: &str, style: Style) -> io::Result<()> {
    write!(out, "{bar} {} ", style.bold(format_args!("{text:<LABEL$}")))
}

fn line(out: &mut dyn Write, bar: &str, text: &str, style: Style) -> io::Result<()> {
    writeln!(out, "{bar} {:LABEL$} {}", "", style.dim(text))
}

fn facts(out: &mut dyn Write, bar: &str, layer: &Layer, full: bool, style: Style) -> io::Result<()> {
    let mut what = Vec::new();
    if let Some(digest) = &layer.diff_id {
        what.push(match full {
            true => digest.clone(),
            false => render::id(digest, false).to_owned(),
        });
    }
    if let Some(bytes) = layer.bytes {
        what.push(size_of(bytes, layer.inodes.unwrap_or(0), layer.blob_size));
    }
    if !what.is_empty() {
        line(out, bar, &what.join("  "), style)?;
    }
    if let Some(key) = &layer.key {
        let name = if full { key } else { own_name(key) };
        writeln!(out, "{bar} {:LABEL$} {}", "", style.cyan(name))?;
    }
    if let Some(step) = &layer.created_by {
        let step = step.split_whitespace().collect::<Vec<_>>().join(" ");
        let step = if full { step } else { render::cut(&step, 90) };
        writeln!(
            out,
            "{bar} {:LABEL$} {}",
            "",
            style.cyan(render::plain::plain(&step))
        )?;
    }
    if !layer.shared_with.is_empty() {
        let others = match full {
            true => layer.shared_with.join(", "),
            false => few(&layer.shared_with),
        };
        writeln!(out, "{bar} {:LABEL$} shared with {others}", "")?;
    }
    Ok(())
}

/// The first few names, and how many more there are.
fn few(names: &[String]) -> String {
    const SHOWN: usize = 6;
    match names.len() {
        0..=SHOWN => names.join(", "),
        more => format!("{} and {} more", names[..SHOWN].join(", "), more - SHOWN),
    }
}

fn size_of(bytes: u64, inodes: u64, blob: Option<u64>) -> String {
    let files = if inodes == 1 {
        "1 file".to_owned()
    } else {
        format!("{inodes} files")
    };
    match blob {
        Some(blob) => format!("{} in {files} ({} packed)", size::human(bytes), size::human(blob)),
        None => format!("{} in {files}", size::human(bytes)),
    }
}

/// The sum: what the stack holds, and what is this one's alone.
fn totals(stack: &Stack) -> String {
    let of = |layers: &mut dyn Iterator<Item = &Layer>| layers.filter_map(|l| l.bytes).sum::<u64>();
    let own = stack.writable.as_ref().map_or(0, |w| w.bytes);
    let shared = of(&mut stack.layers.iter().filter(|l| !l.shared_with.is_empty()));
    let alone = of(&mut stack.layers.iter().filter(|l| l.shared_with.is_empty()));
    let layers = if stack.layers.len() == 1 {
        "1 layer"
    } else {
        &format!("{} layers", stack.layers.len())
    };
    format!(
        "{layers}, {} in all: {} shared with others, {} not{}",
        size::human(shared + alone + own),
        size::human(shared),
        size::human(alone + own),
        if stack.writable.is_some() {
            format!(" ({} written here)", size::human(own))
        } else {
            String::new()
        },
    )
}

#[cfg(test)]
mod tests {
    use engine::layers::{Merged, StackKind, Writable};

    use super::*;

    #[test]
    fn a_stack_is_drawn_top_first() {
        let layer = |n: u64, shared: &[&str]| Layer {
            path: format!("/s/snapshots/{n}/fs").into(),
            diff_id: Some(format!("sha256:{}", n.to_string().repeat(64))),
            blob_size: Some(1_000_000),
            bytes: Some(2_500_000),
            inodes: Some(12),
            key: None,
            created_by: Some("/bin/sh -c  apt-get\n install x".into()),
            shared_with: shared.iter().map(|s| (*s).to_owned()).collect(),
        };
        let stack = Stack {
            kind: StackKind::Container,
            name: "quiet_basalt".into(),
            id: "ab".repeat(32),
            image: Some("debian:12".into()),
            merged: Some(Merged {
                path: "/r/rootfs".into(),
                mounted: true,
            }),
            writable: Some(Writable {
                path: "/s/snapshots/9/fs".into(),
                bytes: 4096,
                inodes: 1,
            }),
            layers: vec![layer(2, &[]), layer(1, &["debian:12", "other"])],
            mount_points: Some("/s/mountpoints".into()),
        };
        let mut out = Vec::new();
        draw(&mut out, &stack, false, Style::PLAIN).unwrap();
        let expected = "\
container quiet_basalt of debian:12  abababababab
┌ merged    /r/rootfs
│
├ writable  /s/snapshots/9/fs
│           4.1kB in 1 file
│
├ layer 2   /s/snapshots/2/fs
│           222222222222  2.5MB in 12 files (1MB packed)
│           /bin/sh -c apt-get install x
│
├ layer 1   /s/snapshots/1/fs
│           111111111111  2.5MB in 12 files (1MB packed)
│           /bin/sh -c apt-get install x
│           shared with debian:12, other
│
└ places    /s/mountpoints
            what /proc, /etc/hosts and the like are mounted on

2 layers, 5MB in all: 2.5MB shared with others, 2.5MB not (4.1kB written here)
";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn many_names_are_counted() {
        let names: Vec<String> = (0..9).map(|n| format!("c{n}")).collect();
        assert_eq!(few(&names), "c0, c1, c2, c3, c4, c5 and 3 more");
    }
}
