//! From the flags of `run` to what the engine is asked. Each flag's own form is known to `runtime::options`.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use engine::network::{connection, publish};
use engine::run::{Plan, Request, Source};
use runtime::control::Restart;
use runtime::options::container::{SeccompChoice, Unmask};
use runtime::options::env::EnvOption;
use runtime::options::health::HealthOptions;
use runtime::options::mounts::{Asked, MountKind, MountOption};
use runtime::options::namespaces::NamespaceOption;
use runtime::options::security::SecurityOption;
use runtime::options::{
    ContainerOptions, OptionError, devices, env, health, lifecycle, limits, mounts, namespaces, network,
    process, security, userns, volumes,
};

use super::{ContainerArgs, Pull};
use crate::commands::Context;
use crate::failure::Failure;
use crate::registries;

impl From<OptionError> for Failure {
    fn from(error: OptionError) -> Failure {
        Failure::user(format!("{} {:?}: {}", error.flag, error.value, error.problem)).hint(error.hint)
    }
}

/// What the flags ask for.
pub(crate) fn request(context: &Context, args: &ContainerArgs) -> Result<Request, Failure> {
    let (source, command) = match (&args.rootfs, args.words.split_first()) {
        (Some(dir), _) => (Source::Directory(absolute(dir)?), args.words.as_slice()),
        (None, Some((image, command))) if image == "host" => (Source::Host, command),
        (None, Some((image, command))) => (Source::Image(image.clone()), command),
        (None, None) => return Err(Failure::user("no image is named")),
    };
    let mut request = Request::new(source);
    request.plan.container = container(args, command)?;
    request.name = maybe(&given(&args.name), process::name)?;
    request.remove = args.rm;
    request.plan.interactive = args.interactive;
    request.plan.pidfile = args.pidfile.as_deref().map(absolute).transpose()?;
    request.plan.restart = lifecycle::restart(&args.restart)?;
    if args.rm && request.plan.restart != Restart::No {
        return Err(Failure::user("--rm and --restart contradict each other")
            .hint("a container that goes at its end cannot be started again: leave one of the two out"));
    }
    request.plan.log = lifecycle::log(&args.log_driver, &args.log_opt)?;
    request.plan.stop_timeout = args.stop_timeout;
    if args.no_healthcheck && given(&args.health_cmd).is_some() {
        return Err(
            Failure::user("--no-healthcheck and --health-cmd contradict each other")
                .hint("leave one of the two out"),
        );
    }
    request.pull = match args.pull {
        Pull::Always => engine::run::PullPolicy::Always,
        Pull::Newer => engine::run::PullPolicy::Newer,
        Pull::Missing => engine::run::PullPolicy::Missing,
        Pull::Never => engine::run::PullPolicy::Never,
    };
    request.platform = given(&args.platform);
    request.registries = registries::options(&context.settings, None);
    for file in &args.label_file {
        let labels = env::label_file(&read(file, "file of labels")?);
        request
            .labels
            .extend(labels.map_err(|error| of_file(error, file))?);
    }
    for label in &args.label {
        let (key, value) = env::key_value("--label", label)?;
        request.labels.insert(key, value);
    }
    request.volumes_from = each(&args.volumes_from, volumes::volumes_from)?;
    for (name, address) in each(&args.add_host, network::add_host)? {
        match address {
            Some(address) => request.plan.hosts.push((name, address)),
            None => request.plan.gateway_names.push(name),
        }
    }
    networks(context, args, &mut request.plan)?;
    request.plan.dns_search = each(&args.dns_search, |v| network::resolver("--dns-search", v))?;
    request.plan.dns_options = each(&args.dns_option, |v| network::resolver("--dns-option", v))?;
    request.plan.dns = each(&args.dns, network::dns)?;
    request.plan.driver = args.driver.into();
    request.plan.runtime = args.runtime.clone().or_else(|| context.settings.runtime.clone());
    Ok(request)
}

/// `--network` and all that is asked of networks.
fn networks(context: &Context, args: &ContainerArgs, plan: &mut Plan) -> Result<(), Failure> {
    let named: Vec<&str> = args
        .network
        .iter()
        .map(String::as_str)
        .filter(|name| !name.is_empty())
        .collect();
    let asked = match named.is_empty() {
        false => named.into_iter().map(str::to_owned).collect(),
        true => vec![context.setup().default_network().0],
    };
    let several = asked.len() > 1;
    for value in &asked {
        match namespaces::network(value)? {
            None => {
                let network = connection::network(value)?;
                if network.network == "pasta" && !context.setup().networking.unprivileged {
                    return Err(Failure::user("--network pasta: it is for users without root")
                        .hint("root's containers have bridge, and networks by name"));
                }
                plan.networks.push(network);
            }
            Some(_) if several => {
                return Err(Failure::user(format!(
                    "--network {value} and another network contradict each other"
                ))
                .hint("give --network several times for networks alone, or this one by itself"));
            }
            Some(namespace) => plan.container.network = namespace,
        }
    }
    plan.publish = each(&args.publish, publish::publish)?;
    plan.publish_all = args.publish_all;
    plan.expose = each(&args.expose, publish::expose)?;
    let addresses = [("--ip", &args.ip), ("--ip6", &args.ip6)];
    let addresses = addresses
        .into_iter()
        .filter_map(|(flag, value)| Some((flag, value.as_deref()?)));
    let addresses: Vec<_> = addresses
        .filter(|(_, value)| !value.is_empty())
        .map(|(flag, value)| connection::address(flag, value))
        .collect::<Result<_, _>>()?;
    let mac = maybe(&given(&args.mac_address), |v| connection::mac("--mac-address", v))?;
    let aliases = each(&args.network_alias, |v| connection::alias("--network-alias", v))?;
    let flag = match (&addresses[..], &mac, &aliases[..], &plan.publish[..]) {
        ([_, ..], ..) => "--ip",
        (_, Some(_), ..) => "--mac-address",
        (_, _, [_, ..], _) => "--network-alias",
        (.., [_, ..]) => "--publish",
        _ if args.publish_all => "--publish-all",
        _ => return Ok(()),
    };
    match &mut plan.networks[..] {
        // Of the host's network every port is the host's: docker and podman pass over what is published there, too.
        [] if plan.container.network == NamespaceOption::Host && flag.starts_with("--publish") => {
            plan.publish.clear();
            plan.publish_all = false;
            let note = "note: with --network host every port of the container is the machine's own, and none is published";
            let _ = writeln!(io::stderr(), "{note}");
        }
        [] => {
            let network = asked.join(", ");
            let failure = Failure::user(format!("{flag} asks for a network, and --network is {network}"));
            let (_, why) = context.setup().default_network();
            let instead = match context.setup().networking.unprivileged {
                true => "--network pasta",
                false => "--network bridge, or the name of a network",
            };
            return Err(match args.network.is_empty() {
                false => failure.hint(instead),
                true => failure.hint(format!("{instead}; none is the default because {why}")),
            });
        }
        [only] => {
            only.addresses.extend(addresses);
            only.mac = mac.or(only.mac.take());
            only.aliases.extend(aliases);
        }
        _ if !addresses.is_empty() || mac.is_some() => {
            return Err(
                Failure::user(format!("{flag} is of one network, and there are several"))
                    .hint("write it with its network: --network NAME:ip=ADDRESS,mac=ADDRESS"),
            );
        }
        all => all
            .iter_mut()
            .for_each(|one| one.aliases.extend(aliases.iter().cloned())),
    }
    Ok(())
}

/// Everything about the container itself.
fn container(args: &ContainerArgs, command: &[String]) -> Result<ContainerOptions, Failure> {
    let relative = !(args.volume.is_empty() && args.mount.is_empty() && args.security_opt.is_empty());
    let cwd = match relative {
        true => std::env::current_dir().map_err(|e| {
            Failure::user(format!("the working directory: {e}")).hint("change to one that is there: cd /")
        })?,
        false => PathBuf::new(),
    };
    let mut options = ContainerOptions {
        command: command.to_vec(),
        entrypoint: maybe(&args.entrypoint, process::entrypoint)?,
        env: environment(args.env_host, &args.env_file, &args.env)?,
        workdir: maybe(&given(&args.workdir), process::workdir)?,
        user: args.user.clone(),
        group_add: args.group_add.clone(),
        hostname: maybe(&given(&args.hostname), network::hostname)?,
        tty: args.tty,
        init: args.init,
        devices: each(&args.device, devices::device)?,
        read_only: args.read_only,
        cap_add: each(&args.cap_add, |v| security::capability("--cap-add", v))?,
        cap_drop: each(&args.cap_drop, |v| security::capability("--cap-drop", v))?,
        privileged: args.privileged,
        sysctls: each(&args.sysctl, security::sysctl)?,
        ulimits: each(&args.ulimit, limits::ulimit)?,
        shm_size: maybe(&args.shm_size, limits::shm_size)?,
        storage_size: each(&args.storage_opt, limits::storage_opt)?.pop(),
        resources: args.limits.resources()?,
        umask: maybe(&given(&args.umask), process::umask)?,
        oom_score_adj: maybe(&given(&args.oom_score_adj), limits::oom_score_adj)?,
        cgroup_parent: maybe(&given(&args.cgroup_parent), process::cgroup_parent)?,
        pid: maybe(&given(&args.pid), |v| namespaces::namespace("--pid", v))?.unwrap_or_default(),
        ipc: maybe(&given(&args.ipc), |v| namespaces::namespace("--ipc", v))?.unwrap_or_default(),
        uts: maybe(&given(&args.uts), |v| namespaces::namespace("--uts", v))?.unwrap_or_default(),
        users: match userns::maps(&args.uidmap, &args.gidmap)? {
            Some(users) => users,
            None => maybe(&given(&args.userns), userns::userns)?.unwrap_or_default(),
        },
        annotations: each(&args.annotation, |v| env::key_value("--annotation", v))?,
        health: HealthOptions {
            none: args.no_healthcheck,
            command: maybe(&given(&args.health_cmd), health::command_line)?,
            interval: maybe(&args.health_interval, |v| {
                health::duration("--health-interval", v)
            })?,
            timeout: maybe(&args.health_timeout, |v| health::duration("--health-timeout", v))?,
            retries: args.health_retries,
            start_period: maybe(&args.health_start_period, |v| {
                health::duration("--health-start-period", v)
            })?,
            start_interval: maybe(&args.health_start_interval, |v| {
                health::duration("--health-start-interval", v)
            })?,
        },
        stop_signal: maybe(&given(&args.stop_signal), process::stop_signal)?,
        ..ContainerOptions::default()
    };
    for asked in each(&args.volume, |v| mounts::volume(v, &cwd))? {
        put(&mut options, asked, make_source)?;
    }
    for asked in each(&args.mount, |v| mounts::mount(v, &cwd))? {
        put(&mut options, asked, has_source)?;
    }
    options.mounts.extend(each(&args.tmpfs, mounts::tmpfs)?);
    for value in &args.security_opt {
        security_option(&mut options, security::security_opt(value)?, &cwd)?;
    }
    Ok(options)
}

fn each<T>(values: &[String], parse: impl Fn(&str) -> Result<T, OptionError>) -> Result<Vec<T>, OptionError> {
    values.iter().map(|value| parse(value)).collect()
}

fn maybe<T>(
    value: &Option<String>,
    parse: impl FnOnce(&str) -> Result<T, OptionError>,
) -> Result<Option<T>, OptionError> {
    value.as_deref().map(parse).transpose()
}

/// Where an empty value is the default, as docker and podman have it: scripts write `--name "$NAME"`.
fn given(value: &Option<String>) -> Option<String> {
    value.clone().filter(|value| !value.is_empty())
}

/// Puts a mount or a volume with the others of its kind; of a mount, `see` to its source.
fn put(
    options: &mut ContainerOptions,
    asked: Asked,
    see: impl Fn(&MountOption) -> Result<(), Failure>,
) -> Result<(), Failure> {
    match asked {
        Asked::Mount(mount) => {
            see(&mount)?;
            options.mounts.push(mount);
        }
        Asked::Volume(volume) => options.volumes.push(volume),
    }
    Ok(())
}

/// Makes the directory that a volume is bound from when it is missing, as docker does (and does not for `--mount`).
fn make_source(volume: &MountOption) -> Result<(), Failure> {
    match &volume.kind {
        MountKind::Bind { source } if !source.exists() => fs::create_dir_all(source).map_err(|e| {
            Failure::user(format!(
                "--volume: {} is not there and cannot be made: {e}",
                source.display()
            ))
            .hint("name a directory or file of this machine")
        }),
        _ => Ok(()),
    }
}

/// A `--mount` is of what is there.
fn has_source(mount: &MountOption) -> Result<(), Failure> {
    match &mount.kind {
        MountKind::Bind { source } => match fs::symlink_metadata(source) {
            Err(e) => Err(Failure::user(format!("--mount source {}: {e}", source.display()))
                .hint("make it first; --volume makes a directory that is missing")),
            Ok(_) => Ok(()),
        },
        MountKind::Tmpfs => Ok(()),
    }
}

fn security_option(options: &mut ContainerOptions, asked: SecurityOption, cwd: &Path) -> Result<(), Failure> {
    match asked {
        SecurityOption::NoNewPrivileges(on) => options.no_new_privileges = on,
        SecurityOption::SeccompUnconfined => options.seccomp = SeccompChoice::Unconfined,
        SecurityOption::SeccompDefault => options.seccomp = SeccompChoice::Always,
        SecurityOption::SeccompFile(file) => {
            let path = cwd.join(file);
            let text = read(&path, "seccomp profile")?;
            options.seccomp = SeccompChoice::Profile { path, text };
        }
        SecurityOption::Apparmor(profile) => options.apparmor = Some(profile),
        SecurityOption::Label(asked) => options.label.ask(asked),
        SecurityOption::Mask(paths) => options.mask.extend(paths),
        SecurityOption::Unmask(paths) if paths.is_empty() => options.unmask = Unmask::Everything,
        SecurityOption::Unmask(paths) => match &mut options.unmask {
            Unmask::Everything => {}
            Unmask::Paths(all) => all.extend(paths),
            Unmask::Nothing => options.unmask = Unmask::Paths(paths),
        },
    }
    Ok(())
}

/// What is wrong with a line of a file names the file.
fn of_file(mut error: OptionError, file: &Path) -> OptionError {
    error.value = file.display().to_string();
    error
}

/// The caller's own variables first where they are all wanted, then those of files, then those of flags; the last wins.
pub(crate) fn environment(
    own: bool,
    files: &[PathBuf],
    variables: &[String],
) -> Result<Vec<(String, Option<String>)>, Failure> {
    let mut asked: Vec<EnvOption> = Vec::new();
    asked.extend(own.then(|| EnvOption::InheritAll(String::new())));
    for file in files {
        let variables = env::env_file(&read(file, "environment file")?);
        asked.extend(variables.map_err(|error| of_file(error, file))?);
    }
    for value in variables {
        asked.push(env::env(value)?);
    }
    let inherits = asked.iter().any(|v| !matches!(v, EnvOption::Set(..)));
    let own: Vec<(String, String)> = match inherits {
        // What is not UTF-8 cannot be said in the container's configuration, which is JSON.
        true => std::env::vars_os()
            .filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)))
            .collect(),
        false => Vec::new(),
    };
    Ok(asked.iter().flat_map(|v| v.resolve(&own)).collect())
}

fn read(path: &Path, what: &str) -> Result<String, Failure> {
    fs::read_to_string(path).map_err(|e| {
        Failure::user(format!("{what} {}: {e}", path.display())).hint("name a text file that can be read")
    })
}

fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|e| Failure::user(format!("directory {}: {e}", path.display())))
}
