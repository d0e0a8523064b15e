//! What users of docker and podman type that strata does not have, and what there is instead: an unknown flag's hint
//! names the way out, not the flag that is spelt most like it.

/// What to do instead of a command of docker's or podman's that strata lacks.
pub(crate) fn command(name: &str) -> Option<&'static str> {
    Some(match name {
        "checkpoint" | "restore" => "strata --help lists what can be done with a container",
        "build" => "strata runs images that others build; strata commit makes one of a container",
        "generate" => {
            "a unit of systemd's executes strata run, in the foreground: that ends when the container does"
        }
        "secret" | "pod" | "compose" | "kube" | "play" | "swarm" | "context" => {
            "containers have networks by --network, and directories of this machine or volumes by -v"
        }
        "oci" => "it takes none of strata's own flags: strata oci --help tells which it takes",
        "search" => "strata pull fetches an image by its name",
        "ls" | "list" => "strata ps lists containers, strata images lists images",
        _ => return None,
    })
}

/// What to do instead of a flag of docker's or podman's that the command lacks. The flag is as clap names it, `-d` or
/// `--detach`.
pub(crate) fn flag(command: &str, flag: &str) -> Option<&'static str> {
    match command {
        "run" | "create" => run_flag(flag),
        "update" | "container update" => run_flag(flag),
        "exec" | "container exec" => match flag {
            "-l" | "--latest" => Some("strata ps lists those that run, the latest first"),
            "--preserve-fds" | "--preserve-fd" => {
                Some("standard input, output and error are passed on; nothing else of the machine goes in")
            }
            "--cidfile" => Some("name the container itself"),
            _ => None,
        },
        "network create" => match flag {
            "--attachable" => Some("any container may be in any network: leave it out"),
            "--ipam-driver" | "--ipam-opt" => {
                Some("--subnet, --gateway and --ip-range say which addresses it has")
            }
            "--disable-dns" | "--dns" => Some("strata runs no name server: names are lines of /etc/hosts"),
            "--interface-name" => Some("--opt com.docker.network.bridge.name=NAME"),
            "--scope" | "--ingress" | "--config-only" | "--config-from" | "--aux-address" | "--route" => {
                Some(
                    "a network is a bridge of this machine; strata network create --help lists what it can have",
                )
            }
            _ => None,
        },
        "network connect"
            if matches!(
                flag,
                "--link" | "--link-local-ip" | "--driver-opt" | "--gw-priority"
            ) =>
        {
            Some("--alias gives it another name there; --ip, --ip6 and --mac-address its addresses")
        }
        "network rm" if matches!(flag, "-t" | "--time") => {
            Some("no container is stopped for it: remove those that are in the network before")
        }
        "load" | "image load" if flag == "-" => Some("without -i the archive is read from standard input"),
        "pull" | "image pull" if matches!(flag, "-a" | "--all-tags") => Some("pull each tag by its name"),
        "pull" | "image pull" | "login" if flag == "--tls-verify" => Some(
            "--plain-http is for a registry without TLS; a certificate of one's own belongs among the system's",
        ),
        "cp" | "container cp" => match flag {
            "--overwrite" => {
                Some("a directory never replaces a file, nor a file a directory: remove what is there")
            }
            _ => None,
        },
        "save" | "image save" => match flag {
            "-m" | "--multi-image-archive" => Some("several images go into one archive in any case"),
            "--compress" => Some("compress the archive as a whole: strata save … | zstd > FILE"),
            _ => None,
        },
        "push" | "image push" => match flag {
            "-a" | "--all-tags" => Some("push each tag by its name"),
            "--tls-verify" => Some(
                "--plain-http is for a registry without TLS; a certificate of one's own belongs among the system's",
            ),
            "--creds" | "--authfile" => {
                Some("strata login keeps a password; REGISTRY_AUTH_FILE names another file")
            }
            _ => None,
        },
        "commit" | "container commit" => match flag {
            "-f" | "--format" => Some("images made here are OCI images; strata save --format writes others"),
            "-s" | "--squash" => Some("strata image squash makes one layer of an image"),
            "-i" | "--iidfile" => Some("the id is what is printed: strata commit … > FILE"),
            "--include-volumes" => Some("copy what is in a volume into the container first: strata cp"),
            _ => None,
        },
        "image inspect" if matches!(flag, "-s" | "--size") => Some("it is told in any case: Size"),
        _ => None,
    }
}

fn run_flag(flag: &str) -> Option<&'static str> {
    Some(match flag {
        "-a" | "--attach" => {
            "leave out what is not wanted: without -i nothing is passed on, 2>/dev/null takes the errors"
        }
        "--conmon-pidfile" | "--sdnotify" => {
            "--pidfile has the process, and so has strata inspect tells the process: .State.Pid"
        }
        "--rmi" => "strata rmi removes the image",
        "--link" => "containers of a network find each other by name: strata network create, --network NAME",
        "--link-local-ip" => "--ip and --ip6 ask for an address of the network",
        "--no-hosts" | "--hosts-file" => {
            "bind a file of your own over the container's: -v ./hosts:/etc/hosts:ro"
        }
        "--no-hostname" => "bind a file of your own over the container's: -v ./hostname:/etc/hostname:ro",
        "--domainname" => "--sysctl kernel.domainname=NAME sets it; --hostname takes a name with its domain",
        "--cpu-rt-period" | "--cpu-rt-runtime" => "--cpus and --cpu-shares say what it has of the time",
        "--memory-swappiness" | "--kernel-memory" | "--oom-kill-disable" => {
            "--memory, --memory-swap and --oom-score-adj: cgroup v2 has no others"
        }
        "--blkio-weight-device"
        | "--device-read-bps"
        | "--device-read-iops"
        | "--device-write-bps"
        | "--device-write-iops"
        | "--cgroup-conf" => "with cgroup v2, a group made before has limits of disks: --cgroup-parent",
        "--cgroupns" | "--cgroups" => "a container always has a control group and its namespace of its own",
        "--subuidname" | "--subgidname" | "--hostuser" => {
            "--userns auto, --userns FIRST:COUNT, or --uidmap and --gidmap say which ids a container has"
        }
        "--device-cgroup-rule" => "name the devices: --device HOST[:CONTAINER][:rwm], or a directory of them",
        "--gpus" => "name the devices of the card: --device /dev/dri, --device /dev/nvidia0, and so on",
        "--volume-driver" | "--image-volume" | "--secret" | "--config" => {
            "give directories and files of this machine, or volumes, by -v"
        }
        "--annotation-file" => "give each by itself: --annotation KEY=VALUE",
        "--unsetenv" | "--unsetenv-all" | "--http-proxy" => {
            "a container has the variables of its image and those given by -e and --env-file, no others"
        }
        "--timeout" => "timeout(1) before strata run ends it in time",
        "--health-on-failure" => "strata events tells of it: --filter event=health_status",
        "--tz" => "-e TZ=NAME, or -v /etc/localtime:/etc/localtime:ro",
        "--read-only-tmpfs" => "--tmpfs PATH for each place that is to be written to beneath --read-only",
        "--arch" | "--os" | "--variant" => "--platform OS/ARCH[/VARIANT] names them all",
        "--tls-verify" | "--authfile" | "--creds" | "--cert-dir" | "--disable-content-trust" => {
            "fetch the image before, by strata login and strata pull"
        }
        "--systemd" => {
            "an init system finds what it needs with --tmpfs /run --tmpfs /tmp --stop-signal RTMIN+3"
        }
        "--isolation" | "--pod" | "--requires" | "--passwd" | "--rdt-class" => {
            "leave it out: strata has nothing like it"
        }
        _ => return None,
    })
}

/// Other values that a flag of docker's or podman's takes.
pub(crate) fn value(flag: &str, value: &str) -> Option<&'static str> {
    match (flag, value) {
        ("--pull", _) => Some("--pull takes always, newer, missing or never"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn nothing_that_strata_has_is_said_to_be_missing() {
        let whole = crate::args::Cli::command();
        for known in whole.get_subcommands() {
            let name = known.get_name();
            assert!(command(name).is_none(), "{name}");
            for arg in known.get_arguments().chain(whole.get_arguments()) {
                let long = arg.get_long().map(|long| format!("--{long}"));
                let short = arg.get_short().map(|short| format!("-{short}"));
                for spelt in [long, short].into_iter().flatten() {
                    let global = whole.get_arguments().any(|own| own.get_id() == arg.get_id());
                    assert!(global || flag(name, &spelt).is_none(), "{name} {spelt}");
                }
            }
        }
        assert!(flag("run", "--link").is_some_and(|hint| hint.contains("--network NAME")));
        assert!(command("build").is_some());
        assert_eq!(
            (flag("run", "--nam"), command("puul"), value("--driver", "x")),
            (None, None, None)
        );
    }
}
