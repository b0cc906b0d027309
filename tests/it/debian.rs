//! Programs that tests need, from Debian's packages, when they are not there.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::world::text;

/// Installs a package when what it brings is not there.
pub(crate) fn install(what: &str, package: &str, there: impl Fn() -> bool) {
    if there() {
        return;
    }
    update();
    run(apt_as_root().args(["install", "-y", "-qq", "--no-install-recommends", package]));
    assert!(there(), "{package} was installed, and {what} is not there");
}

/// A program of a package whose service must not be started: on the path, or unpacked beside the tests'
/// binaries, where it stays.
pub(crate) fn unpacked(program: &str, package: &str) -> PathBuf {
    let on_path = std::env::var_os("PATH").unwrap_or_default();
    let mut places = std::env::split_paths(&on_path).map(|folder| folder.join(program));
    if let Some(found) = places.find(|file| file.is_file()) {
        return found;
    }
    let tools = tools().join(package);
    let file = tools.join("usr/bin").join(program);
    if file.is_file() {
        return file;
    }
    let fresh = tempfile::tempdir().unwrap();
    let load = || {
        let mut command = Command::new("apt-get");
        command
            .args(["download", "-qq", package])
            .current_dir(fresh.path());
        command
    };
    if !load().output().is_ok_and(|output| output.status.success()) {
        update();
        run(&mut load());
    }
    let loaded = std::fs::read_dir(fresh.path()).unwrap().flatten();
    let mut archives = loaded
        .map(|entry| entry.path())
        .filter(|path| is_archive(path));
    let archive = archives.next().expect("a package was loaded");
    std::fs::create_dir_all(&tools).unwrap();
    run(Command::new("dpkg-deb").arg("-x").arg(archive).arg(&tools));
    assert!(
        file.is_file(),
        "{package} was unpacked, and {program} is not in it"
    );
    file
}

/// Where what tests bring along stays: beside their binaries.
pub(crate) fn tools() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    own.parent().unwrap().parent().unwrap().join("tools")
}

fn is_archive(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == "deb")
}

fn update() {
    run(apt_as_root().args(["update", "-qq"]));
}

fn apt_as_root() -> Command {
    let mut command = if rustix::process::getuid().is_root() {
        Command::new("apt-get")
    } else {
        let mut command = Command::new("sudo");
        command.args(["-n", "apt-get"]);
        command
    };
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command
}

/// Runs a command that must end well.
pub(crate) fn run(command: &mut Command) {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}",
        text(&output.stderr)
    );
}
