//! Python with a module, for the clients that are written in it.

use std::path::PathBuf;
use std::process::Command;

use crate::debian::{run, tools};

/// The Python of the tests when it has `module`, else one beside the tests' binaries into which `package`
/// is installed, and which stays.
pub(crate) fn with(module: &str, package: &str) -> PathBuf {
    let has = |python: &PathBuf| {
        let import = Command::new(python)
            .args(["-c", &format!("import {module}")])
            .output();
        import.is_ok_and(|output| output.status.success())
    };
    let given = std::env::var_os("COUNTERFOIL_TEST_PYTHON").unwrap_or_else(|| "python3".into());
    let given = PathBuf::from(given);
    if has(&given) {
        return given;
    }
    let folder = tools().join("python");
    let python = folder.join("bin/python");
    if !python.is_file() {
        run(Command::new("python3").args(["-m", "venv"]).arg(&folder));
    }
    if !has(&python) {
        run(Command::new(folder.join("bin/pip")).args(["install", "--quiet", package]));
    }
    python
}
