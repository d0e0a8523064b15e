//! `inspect`: what is found by a name, and docker's words for it. Needs root.

mod common;

use common::{Strata, busybox, refused};
use serde_json::{Value, json};

fn inspect(strata: &Strata, words: &[&str]) -> Value {
    let told = strata.ok([&["inspect"], words].concat());
    serde_json::from_str::<Value>(&told).unwrap()
}

#[test]
fn a_name_is_sought_among_containers_images_networks_and_volumes() {
    let strata = busybox();
    strata.ok(["volume", "create", "vol"]);
    strata.ok(["network", "create", "net", "--subnet", "10.99.1.0/24"]);
    strata.ok(["create", "--name", "box", "busybox", "true"]);
    let found = inspect(&strata, &["box", "busybox", "net", "vol"]);
    assert_eq!(found[0]["Name"], "box");
    assert_eq!(found[1]["RepoTags"][0], "busybox:latest");
    assert_eq!(found[2]["IPAM"]["Config"][0]["Subnet"], "10.99.1.0/24");
    assert_eq!(found[3]["Driver"], "local");
    for (kind, name) in [
        ("container", "box"),
        ("image", "busybox"),
        ("network", "net"),
        ("volume", "vol"),
    ] {
        let told = inspect(&strata, &["--type", kind, name]);
        assert_eq!(told, inspect(&strata, &[name]));
        assert_eq!(strata.ok([kind, "inspect", name]), strata.ok(["inspect", name]));
        let ended = strata.end(["inspect", "--type", kind, "nothing"]);
        assert!(
            ended.code == 125 && ended.err.contains("\"nothing\""),
            "{ended:#?}"
        );
        assert!(ended.err.contains("hint: "), "{ended:#?}");
    }
    // The first of them.
    strata.ok(["volume", "create", "box"]);
    assert_eq!(inspect(&strata, &["box"])[0]["State"]["Status"], "created");
    assert_eq!(
        inspect(&strata, &["--type", "volume", "box"])[0]["Scope"],
        "local"
    );
    // What there is of several is told.
    let ended = strata.end(["inspect", "vol", "nothing"]);
    assert_eq!(ended.code, 125);
    assert_eq!(
        serde_json::from_str::<Value>(&ended.out).unwrap()[0]["Name"],
        "vol"
    );
    refused(
        &strata.end(["network", "inspect", "-f", "{{.Name}}", "nothing"]),
        &["nothing"],
    );
}

#[test]
fn what_an_image_does_not_say_is_said() {
    let strata = busybox();
    let image = &inspect(&strata, &["busybox"])[0];
    let digest = image["Digest"].as_str().unwrap();
    assert_eq!(image["RepoDigests"], json!([format!("busybox@{digest}")]));
    for field in [
        "Env",
        "Cmd",
        "Entrypoint",
        "Labels",
        "ExposedPorts",
        "Volumes",
        "WorkingDir",
        "User",
    ] {
        assert!(image["Config"].get(field).is_some(), "{field} is not in {image}");
    }
    strata.ok(["create", "--name", "box", "busybox", "true"]);
    let health = "{{if .State.Health}}{{.State.Health.Status}}{{else}}none{{end}}";
    assert_eq!(strata.ok(["inspect", "-f", health, "box"]), "none\n");
}

#[test]
fn what_was_asked_of_a_container_in_dockers_words() {
    let strata = busybox();
    strata.ok([
        "create",
        "--name",
        "box",
        "--restart",
        "on-failure:3",
        "-m",
        "64m",
        "--cpus",
        "1.5",
        "--pids-limit",
        "77",
        "--cap-add",
        "net_admin",
        "--cap-drop",
        "ALL",
        "--privileged=false",
        "--read-only",
        "--init",
        "--shm-size",
        "8m",
        "--ulimit",
        "nofile=100:200",
        "--security-opt",
        "no-new-privileges",
        "--add-host",
        "db:10.0.0.9",
        "--tmpfs",
        "/scratch",
        "-v",
        "vol:/data:ro",
        "-v",
        "/anonymous",
        "--log-opt",
        "max-size=1m",
        "--stop-timeout",
        "7",
        "--entrypoint",
        "sh",
        "busybox",
        "-c",
        "true",
    ]);
    let told = inspect(&strata, &["box"])[0].clone();
    let asked = &told["HostConfig"];
    for (field, value) in [
        (
            "RestartPolicy",
            json!({"Name": "on-failure", "MaximumRetryCount": 3}),
        ),
        ("Memory", json!(64 << 20)),
        ("NanoCpus", json!(1_500_000_000)),
        ("PidsLimit", json!(77)),
        ("CapAdd", json!(["CAP_NET_ADMIN"])),
        ("CapDrop", json!(["ALL"])),
        ("Privileged", json!(false)),
        ("ReadonlyRootfs", json!(true)),
        ("Init", json!(true)),
        ("ShmSize", json!(8 << 20)),
        ("Ulimits", json!([{"Name": "nofile", "Soft": 100, "Hard": 200}])),
        ("SecurityOpt", json!(["no-new-privileges"])),
        ("ExtraHosts", json!(["db:10.0.0.9"])),
        (
            "LogConfig",
            json!({"Type": "k8s-file", "Config": {"max-size": "1048576", "max-file": "5"}}),
        ),
        ("NetworkMode", json!("none")),
        ("IpcMode", json!("private")),
    ] {
        assert_eq!(asked[field], value, "{field}");
    }
    let bind = asked["Binds"][0].as_str().unwrap();
    assert!(bind.starts_with("vol:/data:") && bind.contains("ro"), "{bind}");
    assert!(asked["Tmpfs"]["/scratch"].is_string(), "{asked}");
    assert_eq!(told["Config"]["Entrypoint"], json!(["sh"]));
    assert_eq!(told["Config"]["Cmd"], json!(["-c", "true"]));
    assert_eq!(told["Config"]["Image"], "busybox:latest");
    assert_eq!(told["Config"]["Volumes"], json!({"/anonymous": {}}));
    assert_eq!(told["Config"]["StopTimeout"], 7);
    assert_eq!(
        (&told["Path"], &told["Args"]),
        (&json!("sh"), &json!(["-c", "true"]))
    );
    assert_eq!(told["RestartCount"], 0);
    assert!(
        told["LogPath"].as_str().unwrap().ends_with("/log/0.log"),
        "{told}"
    );
}

#[test]
fn one_that_has_not_run_tells_what_it_will_be_given() {
    let strata = busybox();
    let flags = ["-e", "A=b", "-w", "/tmp", "-u", "7:8", "--hostname", "here"];
    strata.ok([
        &["create", "--name", "box"],
        &flags[..],
        &["busybox", "sh", "-c", "echo hi >/tmp/x"],
    ]
    .concat());
    let asked = |told: &Value| {
        let config = &told["Config"];
        let env = config["Env"].as_array().unwrap();
        assert!(
            env.contains(&json!("A=b")) && env.contains(&json!("HOSTNAME=here")),
            "{env:?}"
        );
        assert_eq!(
            (&config["User"], &config["WorkingDir"], &config["Hostname"]),
            (&json!("7:8"), &json!("/tmp"), &json!("here"))
        );
    };
    let never = "0001-01-01T00:00:00Z";
    let told = inspect(&strata, &["box"])[0].clone();
    asked(&told);
    let state = &told["State"];
    assert_eq!(
        (&state["StartedAt"], &state["FinishedAt"]),
        (&json!(never), &json!(never))
    );
    assert_eq!(
        (&told["SizeRw"], &told["SizeRootFs"]),
        (&Value::Null, &Value::Null)
    );

    strata.ok(["start", "-a", "box"]);
    let told = inspect(&strata, &["-s", "box"])[0].clone();
    asked(&told);
    let times = ["StartedAt", "FinishedAt"].map(|name| told["State"][name].as_str().unwrap().to_owned());
    assert!(
        *times[0] > *told["Created"].as_str().unwrap() && times[0] < times[1],
        "{times:?}"
    );
    let (own, whole) = (
        told["SizeRw"].as_u64().unwrap(),
        told["SizeRootFs"].as_u64().unwrap(),
    );
    assert!(own > 0 && whole > own + (100 << 10), "{own} {whole}");
    // Who asked for nothing has what the image says.
    strata.ok(["create", "--name", "plain", "busybox", "true"]);
    assert_eq!(inspect(&strata, &["plain"])[0]["Config"]["User"], "");
}

#[test]
fn whether_there_is_one_is_told_by_the_exit_code() {
    let strata = busybox();
    strata.ok(["create", "--name", "box", "-v", "vol:/v", "busybox", "true"]);
    for (noun, there) in [("container", "box"), ("image", "busybox"), ("volume", "vol")] {
        let ended = [there, "nobody"].map(|name| strata.end([noun, "exists", name]));
        let [there, not] = ended;
        assert_eq!((there.code, &*there.out, &*there.err), (0, "", ""));
        assert_eq!((not.code, &*not.out, &*not.err), (1, "", ""));
    }
    assert_eq!(strata.end(["network", "exists", "nobody"]).code, 1);
}

/// What holds is what it was started with, whatever the machine has become since.
#[test]
fn the_limit_of_processes_is_the_one_in_force() {
    let strata = busybox();
    strata.ok(["run", "-d", "--name", "box", "busybox", "sleep", "1000"]);
    let limit = || inspect(&strata, &["box"])[0]["HostConfig"]["PidsLimit"].clone();
    let usual = limit();
    strata.ok(["update", "--pids-limit", "77", "box"]);
    assert_eq!(limit(), 77);
    strata.ok(["update", "--pids-limit", "2048", "box"]);
    let path = inspect(&strata, &["box"])[0]["OCIConfigPath"]
        .as_str()
        .unwrap()
        .to_owned();
    let mut spec: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    spec["linux"]["resources"]["pids"] = json!({"limit": 99});
    std::fs::write(&path, spec.to_string()).unwrap();
    assert_eq!(limit(), 99);
    strata.ok(["stop", "-t", "0", "box"]);
    assert_eq!(limit(), 2048);
    assert!(usual == 2048 || usual.is_null(), "{usual}");
    strata.ok(["rm", "box"]);
}
