//! Wrong input of people: each gets a message that names it.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::world::{Demo, binary, counterfoil, files, text};

fn said(output: &Output) -> String {
    text(&output.stdout) + &text(&output.stderr)
}

#[test]
fn a_wrong_proxy_configuration_ends_with_64_and_names_the_key() {
    let folder = tempfile::tempdir().unwrap();
    for (content, named) in [
        ("no_such_key = 1\n", "no_such_key"),
        ("spiffe_id = \"not a spiffe id\"\n", "spiffe_id"),
        ("this is not toml", "line 1"),
    ] {
        let file = folder.path().join("proxy.toml");
        std::fs::write(&file, content).unwrap();
        let output = Command::new(binary("counterfoil-proxy"))
            .arg("--config")
            .arg(&file)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(64), "{}", said(&output));
        assert!(said(&output).contains("proxy.toml"), "{}", said(&output));
        assert!(said(&output).contains(named), "{named}: {}", said(&output));
    }
    let missing = folder.path().join("missing.toml");
    let output = Command::new(binary("counterfoil-proxy"))
        .arg("--config")
        .arg(&missing)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(64));
    assert!(said(&output).contains("missing.toml"), "{}", said(&output));
}

#[test]
fn a_wrong_role_configuration_ends_with_64_and_names_the_key() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("role.toml");
    std::fs::write(&file, "no_such_key = 1\n").unwrap();
    for role in ["control", "collector", "query"] {
        let output = counterfoil(&[role, "--config", file.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(64), "{role}: {}", said(&output));
        assert!(
            said(&output).contains("no_such_key"),
            "{role}: {}",
            said(&output)
        );
        assert!(
            said(&output).contains("role.toml"),
            "{role}: {}",
            said(&output)
        );
    }
}

#[test]
fn a_directory_of_a_newer_version_is_refused_everywhere() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("format"), "counterfoil-data 2\n").unwrap();
    let data = folder.path().to_str().unwrap();
    for (command, code) in [
        (&["sql", "--data-dir", data, "select 1"][..], 64),
        (
            &["demo", "--for", "1s", "--ports", "auto", "--data-dir", data][..],
            64,
        ),
        (&["api", "list", "--data-dir", data][..], 64),
        (&["grant", "list", "--data-dir", data][..], 64),
        (&["people", "list", "--data-dir", data][..], 64),
        (&["up", data][..], 64),
        (&["verify", data][..], 2),
    ] {
        let output = counterfoil(command);
        assert_eq!(
            output.status.code(),
            Some(code),
            "{command:?}: {}",
            said(&output)
        );
        assert!(
            said(&output).contains("newer"),
            "{command:?}: {}",
            said(&output)
        );
    }
}

#[test]
fn a_foreign_directory_is_not_written_into() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("thesis.txt"), "mine").unwrap();
    let data = folder.path().to_str().unwrap();
    let output = counterfoil(&["demo", "--for", "1s", "--ports", "auto", "--data-dir", data]);
    assert_eq!(output.status.code(), Some(64), "{}", said(&output));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_port_in_use_is_named_before_anything_starts() {
    let Ok(taken) = TcpListener::bind("127.0.0.1:15432") else {
        return; // Somebody else has it: the same message is tested by them.
    };
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let output = counterfoil(&["demo", "--for", "1s", "--data-dir", data.to_str().unwrap()]);
    drop(taken);
    assert!(!output.status.success());
    assert!(said(&output).contains("15432"), "{}", said(&output));
    assert!(said(&output).contains("--ports auto"), "{}", said(&output));
}

#[test]
fn a_failing_question_tells_its_state_and_place() {
    let mut demo = Demo::start(&["--for", "2s", "--rate", "2"]);
    demo.finish_well();
    let data = demo.data().to_str().unwrap().to_owned();
    for (sql, state) in [
        ("select * from nothing_here", "42P01"),
        ("selec 1", "42601"),
    ] {
        let output = counterfoil(&["sql", "--data-dir", &data, sql]);
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        assert!(said(&output).contains(state), "{}", said(&output));
    }
    let csv = counterfoil(&[
        "sql",
        "--data-dir",
        &data,
        "-o",
        "csv",
        "select 1 as one, 'x' as x",
    ]);
    assert_eq!(text(&csv.stdout).trim(), "one,x\n1,x");
    assert!(
        text(&csv.stderr).contains("query_log"),
        "{}",
        text(&csv.stderr)
    );
}

#[test]
fn a_server_named_in_the_environment_does_not_stand_against_a_data_directory() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("format"), "counterfoil-data 1\n").unwrap();
    let data = folder.path().to_str().unwrap();
    let ask = |args: &[&str]| {
        Command::new(binary("counterfoil"))
            .env("COUNTERFOIL_URL", "http://127.0.0.1:1")
            .args(["sql", "-o", "csv"])
            .args(args)
            .arg("select 1 as one")
            .output()
            .unwrap()
    };
    let output = ask(&["--data-dir", data]);
    assert_eq!(text(&output.stdout), "one\n1\n", "{}", said(&output));
    // Without a directory it stands for the option.
    let output = ask(&[]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("127.0.0.1:1"), "{}", said(&output));
    let output = ask(&["--data-dir", data, "--url", "http://127.0.0.1:1"]);
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
}

#[test]
fn wrong_use_ends_with_2() {
    for command in [
        &["verify"][..],
        &["verify", "/nowhere/at/all"],
        &["no-such-command"],
    ] {
        let output = counterfoil(command);
        assert_eq!(
            output.status.code(),
            Some(2),
            "{command:?}: {}",
            said(&output)
        );
    }
}

/// An estate that nobody runs; the folder, and the configuration of a role.
fn estate() -> (tempfile::TempDir, impl Fn(&str) -> PathBuf) {
    estate_of("bank.test")
}

fn estate_of(trust_domain: &str) -> (tempfile::TempDir, impl Fn(&str) -> PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("bank");
    let made = counterfoil(&[
        "init",
        data.to_str().unwrap(),
        "--trust-domain",
        trust_domain,
        "--ports",
        "auto",
    ]);
    assert!(made.status.success(), "{}", said(&made));
    (folder, move |role| data.join(format!("config/{role}.toml")))
}

/// The configuration with another value of a key; one that has no line yet comes first.
fn with(config: &str, key: &str, value: &str) -> String {
    let is_of_key = |line: &&str| line.split_once(" = ").is_some_and(|(of, _)| of == key);
    let changed = format!("{key} = \"{value}\"");
    if config.lines().any(|line| is_of_key(&line)) {
        let lines = config.lines();
        let lines = lines.map(|line| if is_of_key(&line) { &changed } else { line });
        lines.collect::<Vec<_>>().join("\n")
    } else {
        format!("{changed}\n{config}")
    }
}

/// Starts a role whose configuration must be refused before any of its ports is bound: each is held.
fn refused_before_binding(role: &str, file: &Path, named: &[&str]) {
    let text = std::fs::read_to_string(file).unwrap();
    let ports = text.lines().filter_map(|line| {
        let (key, value) = line.split_once(" = ")?;
        let address = value.trim_matches('"');
        key.ends_with("listen")
            .then(|| TcpListener::bind(address).unwrap())
    });
    let held: Vec<_> = ports.collect();
    assert!(!held.is_empty());
    let output = counterfoil(&[role, "--config", file.to_str().unwrap()]);
    let said = said(&output);
    assert_eq!(output.status.code(), Some(64), "{role}: {said}");
    let file = file.to_str().unwrap();
    for part in named.iter().chain([&file]) {
        assert!(said.contains(part), "{role} {part}: {said}");
    }
}

#[test]
fn a_value_that_a_role_cannot_use_ends_with_64_before_any_port_is_bound() {
    for (role, key, value, further) in [
        ("collector", "instance", "a b", None),
        ("collector", "log_key_file", "/etc/hostname", None),
        ("query", "collector", "nowhere", None),
        ("query", "users_file", "/nowhere/users.toml", None),
        (
            "query",
            "tls_cert_file",
            "/nowhere/chain.pem",
            Some("tls_key_file"),
        ),
        ("control", "people_file", "/nowhere/people.toml", None),
        (
            "control",
            "people_cert_file",
            "/nowhere/chain.pem",
            Some("people_key_file"),
        ),
        ("control", "instance", "a b", None),
    ] {
        let (_folder, config) = estate();
        let file = config(role);
        let mut text = with(&std::fs::read_to_string(&file).unwrap(), key, value);
        if let Some(further) = further {
            text = with(&text, further, "/nowhere/key.pem");
        }
        std::fs::write(&file, text).unwrap();
        refused_before_binding(role, &file, &[key, value]);
    }
}

#[test]
fn a_port_in_use_is_named_by_each_role_with_address_and_key() {
    let (_folder, config) = estate();
    for (role, key) in [
        ("control", "listen"),
        ("control", "people_listen"),
        ("query", "http_listen"),
        ("collector", "listen"),
    ] {
        let file = config(role);
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap().to_string();
        let good = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, with(&good, key, &address)).unwrap();
        let output = counterfoil(&[role, "--config", file.to_str().unwrap()]);
        let said = said(&output);
        assert_eq!(output.status.code(), Some(1), "{role}: {said}");
        for part in [address.as_str(), &format!("the key {key}"), "free it"] {
            assert!(said.contains(part), "{role} {part}: {said}");
        }
        std::fs::write(&file, good).unwrap();
    }
}

#[test]
fn a_role_whose_identity_cannot_be_used_ends_with_64_before_any_port_is_bound() {
    let (other, _) = estate_of("other.test");
    let foreign = other.path().join("bank/roots.pem");
    for role in ["collector", "query"] {
        let (_folder, config) = estate();
        let file = config(role);
        let good = std::fs::read_to_string(&file).unwrap();
        for (key, value) in [
            ("spiffe_id", "no id"),
            ("control", "127.0.0.1"),
            ("roots_pem_file", "/nowhere/roots.pem"),
            ("roots_pem_file", "/etc/hostname"),
            ("roots_pem_file", foreign.to_str().unwrap()),
            ("join_token_file", "/nowhere/token"),
        ] {
            std::fs::write(&file, with(&good, key, value)).unwrap();
            let output = counterfoil(&[role, "--config", file.to_str().unwrap()]);
            let said = said(&output);
            assert_eq!(output.status.code(), Some(64), "{role} {key}: {said}");
            assert!(
                said.contains(&format!("identity.{key}")),
                "{role} {key}: {said}"
            );
            assert!(said.contains(value), "{role} {key}: {said}");
        }
    }
}

#[test]
fn a_control_whose_keys_cannot_be_read_ends_with_64_and_names_the_file() {
    let (folder, config) = estate();
    let control = folder.path().join("bank/control");
    for file in ["ca.key", "ca.pem", "governance.key"] {
        let path = control.join(file);
        let good = std::fs::read(&path).unwrap();
        std::fs::write(&path, "no key\n").unwrap();
        let output = counterfoil(&["control", "--config", config("control").to_str().unwrap()]);
        let said = said(&output);
        assert_eq!(output.status.code(), Some(64), "{file}: {said}");
        assert!(said.contains(file), "{file}: {said}");
        std::fs::write(&path, good).unwrap();
    }
}

#[test]
fn roles_refuse_a_directory_of_a_newer_version_with_64() {
    let (folder, config) = estate();
    std::fs::write(folder.path().join("bank/format"), "counterfoil-data 2\n").unwrap();
    for role in ["control", "collector", "query"] {
        let output = counterfoil(&[role, "--config", config(role).to_str().unwrap()]);
        let said = said(&output);
        assert_eq!(output.status.code(), Some(64), "{role}: {said}");
        assert!(said.contains("newer"), "{role}: {said}");
    }
}

#[test]
fn damaged_books_are_told_once_and_nothing_is_tried_for_ever() {
    let mut demo = Demo::start(&["--for", "3s"]);
    demo.finish_well();
    let data = demo.data();
    let manifests: Vec<_> = std::fs::read_dir(data.join("books/log"))
        .unwrap()
        .map(|origin| origin.unwrap().path().join("manifests"))
        .collect();
    let first = std::fs::read_dir(&manifests[0]).unwrap().next().unwrap();
    let first = first.unwrap().path();
    let mut bytes = std::fs::read(&first).unwrap();
    bytes[40] ^= 1;
    std::fs::write(&first, bytes).unwrap();
    let again = ["demo", "--for", "3s", "--ports", "auto", "--data-dir"];
    let output = counterfoil(&[&again[..], &[data.to_str().unwrap()]].concat());
    let said = said(&output);
    assert!(!output.status.success(), "{said}");
    assert!(
        said.contains("exit code 3") && said.contains("manifest"),
        "{said}"
    );
    assert_eq!(said.matches("it is not started again").count(), 1, "{said}");

    let origin = manifests[0].parent().unwrap().file_name().unwrap();
    let key = data.join("collector/log.key");
    let config = data.join("config/collector.toml");
    assert!(key.exists() && config.exists(), "{origin:?}");
    std::fs::rename(&key, data.join("collector/elsewhere.key")).unwrap();
    let output = counterfoil(&["collector", "--config", config.to_str().unwrap()]);
    let said = text(&output.stdout) + &text(&output.stderr);
    assert_eq!(output.status.code(), Some(64), "{said}");
    assert!(said.contains("log_key_file"), "{said}");
    assert!(!key.exists(), "no other key is made");
    let output = counterfoil(&[&again[..], &[data.to_str().unwrap()]].concat());
    let said = text(&output.stdout) + &text(&output.stderr);
    assert!(
        !output.status.success() && said.contains("log.key"),
        "{said}"
    );
    assert!(!key.exists(), "nor by another demo");
    let (other, _) = estate();
    std::fs::copy(other.path().join("bank/collector/log.key"), &key).unwrap();
    refused_before_binding(
        "collector",
        &config,
        &["log_key_file", "is not signed by it"],
    );
}

#[test]
fn a_journal_that_is_none_ends_the_demo_once_and_names_file_and_place() {
    let mut demo = Demo::start(&["--for", "3s"]);
    demo.finish_well();
    let data = demo.data();
    let newest = files(&data.join("journal"))
        .into_iter()
        .rfind(|file| file.file_name().is_some_and(|name| name.len() == 20))
        .expect("a journal file");
    let mut bytes = std::fs::read(&newest).unwrap();
    bytes[0] ^= 1;
    std::fs::write(&newest, &bytes).unwrap();
    let again = ["demo", "--for", "3s", "--ports", "auto", "--data-dir"];
    let output = counterfoil(&[&again[..], &[data.to_str().unwrap()]].concat());
    let said = said(&output);
    assert!(!output.status.success(), "{said}");
    let journal = newest.to_str().unwrap();
    for part in ["exit code 3", journal, "byte 0", "restore it from a copy"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!(said.matches("it is not started again").count(), 1, "{said}");
    assert_eq!(std::fs::read(&newest).unwrap(), bytes, "nothing is cut off");
}

#[test]
fn a_demo_ends_when_a_role_that_was_killed_refuses_to_start_again() {
    let mut demo = Demo::start(&["--rate", "2"]);
    demo.line("that it drives calls", |line| {
        line.contains("driving").then_some(())
    });
    std::fs::write(
        demo.data().join("config/collector.toml"),
        "no_such_key = 1\n",
    )
    .unwrap();
    demo.kill(&[" collector "]);
    let (status, said) = demo.finish();
    assert!(!status.success(), "{said}");
    assert!(said.contains("exit code 64"), "{said}");
    assert_eq!(said.matches("it is not started again").count(), 1, "{said}");
}
