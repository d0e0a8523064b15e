//! `strata inspect`: everything about a container or an image.

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::{Context, Outcome, for_each, print};
use crate::render;
use crate::render::template::{self, ValueFormat};

/// Show everything about containers or images, as JSON
#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// Containers or images, by name or the beginning of an id
    #[arg(value_name = "NAME", required = true)]
    pub(crate) names: Vec<String>,
    /// What the names are [default: a container, or else an image]
    #[arg(long = "type", value_name = "TYPE")]
    pub(crate) kind: Option<Kind>,
    /// Form of the output: json, or fields such as '{{.State.Status}}'
    #[arg(short, long, value_name = "FORM", default_value = "json")]
    pub(crate) format: ValueFormat,
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
}

pub(crate) fn run(context: &Context, names: &[String], format: &ValueFormat, kind: Option<Kind>) -> Outcome {
    let engine = context.engine()?;
    let kind = kind.map(|k| match k {
        Kind::Container => engine::inspect::Kind::Container,
        Kind::Image => engine::inspect::Kind::Image,
    });
    let mut found = Vec::new();
    let code = for_each(names, |name| {
        found.push(engine.inspect(name, kind)?);
        Ok(())
    });
    write(format, &found)?;
    Ok(code)
}

/// Prints what was found: all of it as one list, or each by a template.
pub(super) fn write(format: &ValueFormat, found: &[impl Serialize]) -> Outcome {
    match format {
        ValueFormat::Json => print(|out| render::json(out, &found)),
        ValueFormat::Template(template) => {
            let lines: Result<Vec<String>, _> = found.iter().map(|one| template.text(one)).collect();
            let lines = lines?;
            print(|out| template::write(out, &lines))
        }
    }
}
