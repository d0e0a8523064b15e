//! `strata inspect`: everything about a container or an image.

use clap::{Args, ValueEnum};

use super::{Context, Outcome, for_each, print};
use crate::render;

/// Show everything about containers or images, as JSON
#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// Containers or images, by name or the beginning of an id
    #[arg(value_name = "NAME", required = true)]
    pub(crate) names: Vec<String>,
    /// What the names are [default: a container, or else an image]
    #[arg(long = "type", value_name = "TYPE")]
    pub(crate) kind: Option<Kind>,
    /// Form of the output
    #[arg(short, long, value_name = "FORM", default_value = "json", value_parser = ["json"])]
    format: String,
}

/// Show everything about them, as JSON
#[derive(Debug, Args)]
pub(crate) struct NounArgs {
    /// By name or the beginning of an id
    #[arg(value_name = "NAME", required = true)]
    pub(crate) names: Vec<String>,
    /// Form of the output
    #[arg(short, long, value_name = "FORM", default_value = "json", value_parser = ["json"])]
    format: String,
}

/// What can be inspected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// A container
    Container,
    /// An image
    Image,
}

pub(crate) fn run(context: &Context, names: Vec<String>, kind: Option<Kind>) -> Outcome {
    let engine = context.engine()?;
    let kind = kind.map(|k| match k {
        Kind::Container => engine::inspect::Kind::Container,
        Kind::Image => engine::inspect::Kind::Image,
    });
    let mut found = Vec::new();
    let code = for_each(&names, |name| {
        found.push(engine.inspect(name, kind)?);
        Ok(())
    });
    print(|out| render::json(out, &found))?;
    Ok(code)
}
