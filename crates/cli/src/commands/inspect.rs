//! `strata inspect`: everything about a container, an image, a network or a volume; `strata container inspect` and the like.

use clap::{Args, ValueEnum};

use super::{Context, Outcome, for_each, print};
use crate::render;
use crate::render::template::{self, ValueFormat};

/// Show everything about containers, images, networks or volumes, as JSON
#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// By name or the beginning of an id
    #[arg(value_name = "NAME", required = true)]
    pub(crate) names: Vec<String>,
    /// What the names are [default: the first of these that there is]
    #[arg(long = "type", value_name = "TYPE")]
    pub(crate) kind: Option<Kind>,
    /// Form of the output: json, or fields such as '{{.State.Status}}'
    #[arg(short, long, value_name = "FORM", default_value = "json")]
    pub(crate) format: ValueFormat,
    /// Tell what a container has written (SizeRw), and with what its image has (SizeRootFs)
    #[arg(short, long)]
    pub(crate) size: bool,
}

/// Show everything about them, as JSON
#[derive(Debug, Args)]
pub(crate) struct ContainerArgs {
    #[command(flatten)]
    pub(crate) noun: NounArgs,
    /// Tell what it has written (SizeRw), and with what its image has (SizeRootFs)
    #[arg(short, long)]
    pub(crate) size: bool,
}

/// Show everything about them, as JSON
#[derive(Debug, Args)]
pub(crate) struct NounArgs {
    /// By name or the beginning of an id
    #[arg(value_name = "NAME", required = true)]
    pub(crate) names: Vec<String>,
    /// Form of the output: json, or fields such as '{{.State.Status}}'
    #[arg(short, long, value_name = "FORM", default_value = "json")]
    pub(crate) format: ValueFormat,
}

/// What can be inspected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// A container
    Container,
    /// An image
    Image,
    /// A network
    Network,
    /// A volume
    Volume,
}

impl From<Kind> for engine::inspect::Kind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Container => Self::Container,
            Kind::Image => Self::Image,
            Kind::Network => Self::Network,
            Kind::Volume => Self::Volume,
        }
    }
}

pub(crate) fn run(context: &Context, names: &[String], format: &ValueFormat, kind: Option<Kind>) -> Outcome {
    sized(context, names, format, kind, false)
}

pub(crate) fn sized(
    context: &Context,
    names: &[String],
    format: &ValueFormat,
    kind: Option<Kind>,
    size: bool,
) -> Outcome {
    let engine = context.engine()?;
    let kind = kind.map(Into::into);
    let mut found = Vec::new();
    let code = for_each(names, |name| {
        found.push(engine.inspect(name, kind, size)?);
        Ok(())
    });
    match format {
        ValueFormat::Json => print(|out| render::json(out, &found))?,
        ValueFormat::Template(template) => {
            let lines: Result<Vec<String>, _> = found.iter().map(|one| template.text(one)).collect();
            let lines = lines?;
            print(|out| template::write(out, &lines))?
        }
    };
    Ok(code)
}
