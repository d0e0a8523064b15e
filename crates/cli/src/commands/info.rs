//! `strata info`: where things lie, how much there is, and what this machine offers.

use std::io::{self, Write};

use clap::Args;
use engine::info::Info;

use super::{Context, Outcome, print};
use crate::render::{self, Format, size};

/// Show the store, the state and what this machine offers
#[derive(Debug, Args)]
pub(crate) struct InfoArgs {
    /// Form of the output
    #[arg(long, value_name = "FORM", default_value = "table")]
    format: Format,
}

pub(crate) fn run(context: &Context, args: InfoArgs) -> Outcome {
    let info = context.engine()?.info()?;
    print(|out| match args.format {
        Format::Json => render::json(out, &info),
        Format::Table => write(out, context, &info),
    })
}

fn write(out: &mut dyn Write, context: &Context, info: &Info) -> io::Result<()> {
    let style = context.style;
    let config = match &context.settings.file {
        Some(path) => path.display().to_string(),
        None => format!("none ({} does not exist)", context.settings.config.display()),
    };
    let mut line =
        |name: &str, value: String| writeln!(out, "{} {value}", style.bold(format_args!("{name:<16}")));
    line("Version:", info.version.to_owned())?;
    line("Store:", info.root.display().to_string())?;
    line(
        "",
        format!(
            "{}, {} free of {}",
            info.file_system,
            size::human(info.free),
            size::human(info.total)
        ),
    )?;
    line("State:", info.state.display().to_string())?;
    line("Configuration:", config)?;
    line("Namespace:", info.namespace.clone())?;
    line(
        "Default network:",
        format!("{} ({})", info.default_network, info.default_network_why),
    )?;
    line(
        "Containers:",
        format!("{} ({} running)", info.containers, info.running),
    )?;
    line(
        "Images:",
        format!(
            "{} ({} layers and {} blobs in the store)",
            info.images, info.layers, info.blobs
        ),
    )?;
    line(
        "Machine:",
        format!("{}, {}, Linux {}", info.hostname, info.architecture, info.kernel),
    )?;
    line(
        "",
        format!("{} CPUs, {} of memory", info.cpus, size::human(info.memory)),
    )?;
    for (place, feature) in info.features.iter().enumerate() {
        let mark = if feature.usable {
            style.green("+")
        } else {
            style.yellow("-")
        };
        line(
            if place == 0 { "Features:" } else { "" },
            format!("{mark} {}: {}", feature.name, feature.detail),
        )?;
    }
    Ok(())
}
