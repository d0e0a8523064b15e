//! Plug-ins that are scripts.

use serde_json::json;

use super::*;

/// A directory of plug-ins that are scripts.
fn scripts(scripts: &[(&str, &str)]) -> (tempfile::TempDir, Plugins) {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in scripts {
        // Another process writes it: while a child that another test starts has a copy of our descriptor, it cannot be
        // run (ETXTBSY).
        let text = format!("#!/bin/sh\ncd {}\n{text}", dir.path().display());
        let write = "printf %s \"$1\" > \"$0\" && chmod 755 \"$0\"";
        let mut shell = Command::new("/bin/sh");
        let shell = shell.args(["-c", write]).arg(dir.path().join(name)).arg(text);
        assert!(shell.status().unwrap().success());
    }
    let plugins = Plugins(vec![dir.path().to_owned()]);
    (dir, plugins)
}

fn call<'a>(plugins: &'a Plugins, list: &'a Value, capabilities: &'a Value) -> Call<'a> {
    Call {
        plugins,
        container: "c1",
        namespace: Some(Path::new("/run/n")),
        interface: "eth0",
        list,
        capabilities,
    }
}

#[test]
fn plug_ins_are_told_what_came_before_and_undone_in_reverse() {
    let (dir, plugins) = scripts(&[
        (
            "a",
            "cat > a.$CNI_COMMAND; echo a $CNI_COMMAND $CNI_NETNS >> order; echo '{\"ips\":[]}'",
        ),
        (
            "b",
            "cat > b.$CNI_COMMAND; echo b $CNI_COMMAND $CNI_IFNAME >> order; echo '{\"b\":1}'",
        ),
    ]);
    let list = json!({ "cniVersion": "1.0.0", "name": "n", "plugins": [
        { "type": "a", "capabilities": { "mac": true } }, { "type": "b" }] });
    let told = json!({ "mac": "02:00:00:00:00:01", "ips": ["10.0.0.1"] });
    let call = call(&plugins, &list, &told);
    let mut results = Vec::new();
    call.add(|made| -> Result<(), CniError> {
        results.push(made.clone());
        Ok(())
    })
    .unwrap();
    assert_eq!(results, [json!({ "ips": [] }), json!({ "b": 1 })]);
    let result = json!({ "b": 1 });
    call.del(Some(&result)).unwrap();
    let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
    let order = "a ADD /run/n\nb ADD eth0\nb DEL eth0\na DEL /run/n\n";
    assert_eq!(read("order"), order);
    let a: Value = serde_json::from_str(&read("a.ADD")).unwrap();
    assert_eq!((&a["name"], &a["cniVersion"]), (&json!("n"), &json!("1.0.0")));
    assert_eq!(a["runtimeConfig"], json!({ "mac": "02:00:00:00:00:01" }));
    assert_eq!(a.get("prevResult"), None);
    let b: Value = serde_json::from_str(&read("b.ADD")).unwrap();
    assert_eq!(
        (&b["prevResult"], b.get("runtimeConfig")),
        (&json!({ "ips": [] }), None)
    );
    let a: Value = serde_json::from_str(&read("a.DEL")).unwrap();
    assert_eq!(a["prevResult"], json!({ "b": 1 }));
}

#[test]
fn what_a_plug_in_says_is_passed_on_in_one_line() {
    let (_dir, plugins) = scripts(&[
        (
            "a",
            "cat > /dev/null; printf '%s' '{\"code\":11,\"msg\":\"no\\nway\",\"details\":\"out\"}'; exit 1",
        ),
        ("b", "echo 'cannot\tat all' >&2; exit 3"),
        ("c", "exit 4"),
        ("d", "echo nonsense"),
    ]);
    for (plugin, words) in [
        ("a", "plug-in a (ADD): no way; out"),
        ("b", "plug-in b (ADD): cannot at all"),
        ("c", "exit status: 4"),
        ("d", "its answer is not understood"),
        ("e", "the program \"e\" is not in"),
        ("../a", "is not in"),
    ] {
        let list = json!({ "name": "n", "plugins": [{ "type": plugin }] });
        let told = json!({});
        let added = call(&plugins, &list, &told).add(|_| Ok::<(), CniError>(()));
        let error = added.unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn every_plug_in_is_undone_whatever_another_says() {
    let (dir, plugins) = scripts(&[("a", "echo done > a.done"), ("b", "exit 1")]);
    let list = json!({ "name": "n", "plugins": [{ "type": "a" }, { "type": "b" }] });
    let error = call(&plugins, &list, &json!({})).del(None).unwrap_err();
    assert!(matches!(error, CniError::Failed { plugin, command: "DEL", .. } if plugin == "b"));
    assert!(dir.path().join("a.done").exists());
}

#[test]
fn one_that_hangs_is_killed_with_all_it_started() {
    let (dir, _) = scripts(&[("a", "sleep 1000 & echo $! > pid; wait")]);
    let mut command = Command::new(dir.path().join("a"));
    let child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let child = child.process_group(0).spawn().unwrap();
    assert!(
        communicate(child, b"{}", Duration::from_millis(300))
            .unwrap()
            .is_none()
    );
    let pid = std::fs::read_to_string(dir.path().join("pid")).unwrap();
    let gone = || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
        stat.is_empty() || stat.contains(") Z ")
    };
    // The kernel ends it when it runs next.
    let begun = Instant::now();
    while !gone() {
        assert!(begun.elapsed() < Duration::from_secs(10), "process {pid} runs on");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn what_is_missing_is_named() {
    let (dir, plugins) = scripts(&[("bridge", ""), ("portmap", ""), ("firewall", "")]);
    let error = plugins.complete().unwrap_err();
    assert!(
        matches!(&error, CniError::Missing { program, .. } if program == "host-local"),
        "{error}"
    );
    std::fs::write(dir.path().join("host-local"), "").unwrap();
    plugins.complete().unwrap();
    let address = Address {
        address: "10.1.2.3/16".into(),
        gateway: None,
    };
    assert_eq!(address.parts(), Some(("10.1.2.3".parse().unwrap(), 16)));
}

#[test]
fn one_that_finds_a_chain_made_by_another_is_asked_once_more() {
    let (dir, plugins) = scripts(&[(
        "a",
        "cat > /dev/null; echo x >> asked; [ $(wc -l < asked) = $CNI_CONTAINERID ] && exec echo '{}'
        echo '{\"code\":1,\"msg\":\"iptables: CHAIN_USER_ADD failed (File exists): chain C\"}'; exit 1",
    )]);
    let list = json!({ "cniVersion": "1.0.0", "name": "n", "plugins": [{ "type": "a" }] });
    let none = json!({});
    // The second time it can be done; the third is never tried.
    for (container, done) in [("2", true), ("9", false)] {
        let _ = std::fs::remove_file(dir.path().join("asked"));
        let call = Call {
            container,
            ..call(&plugins, &list, &none)
        };
        assert_eq!(call.add(|_| Ok::<_, CniError>(())).is_ok(), done);
        let asked = std::fs::read_to_string(dir.path().join("asked")).unwrap();
        assert_eq!(asked.lines().count(), 2);
    }
}
