//! `strata network`: networks of containers, made, listed, looked at, removed, and containers in them.

use std::collections::BTreeMap;

use clap::{Args, ValueEnum};
use engine::network::{CatalogError, Connection, Network, NetworkError, NewNetwork, Subnet, connection};
use runtime::options::env;

use super::{Context, Outcome, for_each, print};
use crate::failure::Failure;
use crate::render;
use crate::render::filter::{Filters, KeyValue};
use crate::render::table::Table;
use crate::render::template::{self, Field, ListFormat};

/// Make a network
///
/// Its containers reach each other by name, and those of other networks not at all. Addresses are chosen that nothing on
/// this machine has.
#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// Its name
    #[arg(value_name = "NAME")]
    name: String,
    /// Kind of network
    #[arg(short, long, value_name = "DRIVER", default_value = "bridge")]
    driver: Driver,
    /// Range of its addresses, as 10.1.0.0/24 [default: one that is free]
    #[arg(long, value_name = "RANGE")]
    subnet: Vec<Subnet>,
    /// Address of the bridge in a range [default: the first]
    #[arg(long, value_name = "ADDRESS")]
    gateway: Vec<std::net::IpAddr>,
    /// Part of a range that containers get addresses of
    #[arg(long, value_name = "RANGE")]
    ip_range: Vec<Subnet>,
    /// Addresses of IPv6 too
    #[arg(long)]
    ipv6: bool,
    /// No way out of it
    #[arg(long)]
    internal: bool,
    /// mtu=BYTES, com.docker.network.bridge.name=NAME, com.docker.network.bridge.enable_ip_masquerade=BOOL
    #[arg(short, long, value_name = "NAME=VALUE")]
    opt: Vec<String>,
    /// Label
    #[arg(long, value_name = "KEY=VALUE")]
    label: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Driver {
    /// A bridge of this machine
    Bridge,
}

/// List networks
#[derive(Debug, Args)]
pub(crate) struct LsArgs {
    /// Only ids
    #[arg(short, long)]
    quiet: bool,
    /// Whole ids
    #[arg(long)]
    no_trunc: bool,
    /// Only what fits: name=TEXT, id=DIGITS, label=KEY[=VALUE], driver=bridge, dangling=BOOL
    #[arg(short, long, value_name = "FILTER")]
    filter: Vec<KeyValue>,
    /// Form of the output: table, json, or fields such as '{{.ID}} {{.Name}}'
    #[arg(long, value_name = "FORM", default_value = "table")]
    format: ListFormat,
}

/// Remove networks that no container is to be in
#[derive(Debug, Args)]
pub(crate) struct RmArgs {
    /// By name or the beginning of an id
    #[arg(value_name = "NETWORK", required = true)]
    networks: Vec<String>,
    /// One that does not exist is no error
    #[arg(short, long)]
    force: bool,
}

/// Bring a container into a network
///
/// At once where it runs, and whenever it is started.
#[derive(Debug, Args)]
pub(crate) struct ConnectArgs {
    /// By name or the beginning of an id
    #[arg(value_name = "NETWORK")]
    network: String,
    /// By name or the beginning of an id
    #[arg(value_name = "CONTAINER")]
    container: String,
    /// Address of the container there [default: one that is free]
    #[arg(long, value_name = "ADDRESS")]
    ip: Option<String>,
    /// Address of IPv6 [default: one that is free]
    #[arg(long, value_name = "ADDRESS")]
    ip6: Option<String>,
    /// Hardware address of its interface
    #[arg(long, value_name = "ADDRESS")]
    mac_address: Option<String>,
    /// Another name of the container there
    #[arg(long, value_name = "NAME")]
    alias: Vec<String>,
}

/// Take a container out of a network
#[derive(Debug, Args)]
pub(crate) struct DisconnectArgs {
    /// By name or the beginning of an id
    #[arg(value_name = "NETWORK")]
    network: String,
    /// By name or the beginning of an id
    #[arg(value_name = "CONTAINER")]
    container: String,
    /// A container that there is not, or that is not in the network, is no error
    #[arg(short, long)]
    force: bool,
}

pub(crate) fn rm(context: &Context, args: &RmArgs) -> Outcome {
    let engine = context.engine()?;
    Ok(for_each(&args.networks, |name| {
        match engine.remove_network(name) {
            Ok(_) => print(|out| writeln!(out, "{name}")).map(drop),
            Err(NetworkError::Catalog(CatalogError::NotFound(_))) if args.force => Ok(()),
            Err(error) => Err(error.into()),
        }
    }))
}

pub(crate) fn connect(context: &Context, args: ConnectArgs) -> Outcome {
    let addresses = [("--ip", args.ip), ("--ip6", args.ip6)].into_iter();
    let asked = Connection {
        network: args.network,
        aliases: each(&args.alias, |value| connection::alias("--alias", value))?,
        addresses: addresses
            .filter_map(|(flag, value)| Some(connection::address(flag, &value?)))
            .collect::<Result<_, _>>()?,
        mac: args
            .mac_address
            .map(|value| connection::mac("--mac-address", &value))
            .transpose()?,
    };
    context.engine()?.connect_network(&args.container, &asked)?;
    Ok(0)
}

pub(crate) fn disconnect(context: &Context, args: &DisconnectArgs) -> Outcome {
    context
        .engine()?
        .disconnect_network(&args.container, &args.network, args.force)?;
    Ok(0)
}

pub(crate) fn create(context: &Context, args: CreateArgs) -> Outcome {
    let Driver::Bridge = args.driver;
    let mut options = BTreeMap::new();
    for option in &args.opt {
        let (key, value) = option.split_once('=').ok_or_else(|| {
            Failure::user(format!("--opt {option}: it has no value")).hint("write NAME=VALUE")
        })?;
        options.insert(key.to_owned(), value.to_owned());
    }
    let mut labels = BTreeMap::new();
    for label in &args.label {
        let (key, value) = env::key_value("--label", label)?;
        labels.insert(key, value);
    }
    let made = context.engine()?.create_network(&NewNetwork {
        name: args.name,
        v6: args.ipv6,
        subnets: args.subnet,
        gateways: args.gateway,
        ranges: args.ip_range,
        internal: args.internal,
        labels,
        options,
    })?;
    print(|out| writeln!(out, "{}", made.id))
}

pub(crate) fn ls(context: &Context, args: &LsArgs) -> Outcome {
    let filters = Filters::new(
        &args.filter,
        &["name", "id", "label", "label!", "driver", "dangling"],
    )?;
    let dangling = filters.truth("dangling")?;
    let engine = context.engine()?;
    let mut networks = engine.networks()?;
    networks.retain(|network| {
        filters.any("name", |name| network.name.contains(name))
            && filters.any("id", |id| network.id.starts_with(id))
            && filters.any("driver", |driver| driver == "bridge")
            && filters.labels(&network.labels)
    });
    if let Some(dangling) = dangling {
        let idle = engine.idle_networks()?;
        networks.retain(|network| idle.contains(&network.name) == dangling);
    }
    let lines = match &args.format {
        ListFormat::Template(template) => template.lines(
            &fields(args.no_trunc),
            Some(|network| &network.labels),
            "NETWORK ID",
            &networks,
        )?,
        _ => Vec::new(),
    };
    print(|out| match (args.quiet, &args.format) {
        (true, _) => networks
            .iter()
            .try_for_each(|network| writeln!(out, "{}", render::id(&network.id, args.no_trunc))),
        (_, ListFormat::Json) => render::json(out, &networks),
        (_, ListFormat::Template(_)) => template::write(out, &lines),
        (_, ListFormat::Table) => {
            let mut table = Table::new(&["NETWORK ID", "NAME", "DRIVER", "SCOPE"]);
            for network in &networks {
                let id = render::id(&network.id, args.no_trunc).to_owned();
                table.row([id, network.name.clone(), "bridge".to_owned(), "local".to_owned()]);
            }
            table.write(out, context.style)
        }
    })
}

/// Docker's names for what a template shows.
fn fields(full: bool) -> [Field<Network>; 8] {
    [
        (
            "ID",
            Box::new(move |network| render::id(&network.id, full).to_owned()),
        ),
        ("Name", Box::new(|network| network.name.clone())),
        ("Driver", Box::new(|_| "bridge".to_owned())),
        ("Scope", Box::new(|_| "local".to_owned())),
        ("IPv6", Box::new(|network| network.has_v6().to_string())),
        ("Internal", Box::new(|network| network.internal.to_string())),
        ("CreatedAt", Box::new(|network| network.created.to_string())),
        ("Labels", Box::new(|network| render::labels(&network.labels))),
    ]
}

fn each<T, E>(values: &[String], parse: impl Fn(&str) -> Result<T, E>) -> Result<Vec<T>, E> {
    values.iter().map(|value| parse(value)).collect()
}
