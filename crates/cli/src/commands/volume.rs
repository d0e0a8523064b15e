//! `strata volume`: directories with a name that outlive the containers which use them.

use std::collections::BTreeMap;

use clap::Args;
use engine::errors::VolumeError;
use engine::volumes::Volume;
use runtime::options::env;

use super::{Context, Outcome, for_each, print};
use crate::failure::Failure;
use crate::render;
use crate::render::filter::{Filters, KeyValue};
use crate::render::table::Table;
use crate::render::template::{self, Field, ListFormat};

/// Make a volume, and print its name
///
/// One that is there already is left as it is.
#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// Its name (one is made up when absent)
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Label of the volume
    #[arg(long, value_name = "KEY=VALUE")]
    label: Vec<String>,
    /// type=none, o=bind and device=DIRECTORY make it a directory of this machine
    #[arg(short, long, value_name = "NAME=VALUE")]
    opt: Vec<String>,
    /// Who keeps it
    #[arg(short, long, value_name = "DRIVER", default_value = "local", value_parser = ["local"])]
    driver: String,
}

/// List volumes
#[derive(Debug, Args)]
pub(crate) struct LsArgs {
    /// Only names
    #[arg(short, long)]
    quiet: bool,
    /// Only what fits: name=TEXT, label=KEY[=VALUE], dangling=BOOL, driver=local
    #[arg(short, long, value_name = "FILTER")]
    filter: Vec<KeyValue>,
    /// Form of the output: table, json, or fields such as '{{.Name}}'
    #[arg(long, value_name = "FORM", default_value = "table")]
    format: ListFormat,
}

/// Remove volumes, and what is in them
///
/// One that a container uses stays, whether that runs or not.
#[derive(Debug, Args)]
pub(crate) struct RmArgs {
    /// Volumes, by name
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
    /// A volume that does not exist is no error
    #[arg(short, long)]
    force: bool,
}

pub(crate) fn create(context: &Context, args: CreateArgs) -> Outcome {
    let pairs = |flag: &'static str, words: &[String]| -> Result<BTreeMap<String, String>, Failure> {
        let pairs: Result<_, _> = words.iter().map(|word| env::key_value(flag, word)).collect();
        Ok(pairs?)
    };
    let (labels, options) = (pairs("--label", &args.label)?, pairs("--opt", &args.opt)?);
    let name = args.name.as_deref().filter(|name| !name.is_empty());
    let made = context.engine()?.create_volume(name, &labels, &options)?;
    print(|out| writeln!(out, "{}", made.name))
}

pub(crate) fn ls(context: &Context, args: LsArgs) -> Outcome {
    let filters = Filters::new(&args.filter, &["name", "label", "label!", "dangling", "driver"])?;
    let dangling = filters.truth("dangling")?;
    let mut volumes = context.engine()?.volumes()?;
    volumes.retain(|volume| {
        filters.any("name", |name| volume.name.contains(name))
            && filters.any("driver", |driver| driver == volume.driver)
            && filters.labels(&volume.labels)
            && dangling.is_none_or(|dangling| dangling == volume.containers.is_empty())
    });
    let lines = match &args.format {
        ListFormat::Template(template) => {
            template.lines(&fields(), Some(|volume| &volume.labels), "VOLUME NAME", &volumes)?
        }
        _ => Vec::new(),
    };
    print(|out| match (args.quiet, &args.format) {
        (true, _) => volumes
            .iter()
            .try_for_each(|volume| writeln!(out, "{}", volume.name)),
        (_, ListFormat::Json) => render::json(out, &volumes),
        (_, ListFormat::Template(_)) => template::write(out, &lines),
        (_, ListFormat::Table) => {
            let mut table = Table::new(&["DRIVER", "VOLUME NAME"]);
            for volume in &volumes {
                table.row([volume.driver.to_owned(), volume.name.clone()]);
            }
            table.write(out, context.style)
        }
    })
}

pub(crate) fn rm(context: &Context, args: &RmArgs) -> Outcome {
    let engine = context.engine()?;
    Ok(for_each(&args.names, |name| match engine.remove_volume(name) {
        Ok(()) => print(|out| writeln!(out, "{name}")).map(drop),
        Err(VolumeError::NotFound(_)) if args.force => Ok(()),
        Err(error) => Err(Failure::from(error)),
    }))
}

/// Docker's names for what a template shows.
fn fields() -> [Field<Volume>; 5] {
    [
        ("Name", Box::new(|v| v.name.clone())),
        ("Driver", Box::new(|v| v.driver.to_owned())),
        ("Scope", Box::new(|v| v.scope.to_owned())),
        ("Mountpoint", Box::new(|v| v.mountpoint.display().to_string())),
        ("Labels", Box::new(|v| render::labels(&v.labels))),
    ]
}
