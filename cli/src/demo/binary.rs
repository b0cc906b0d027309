//! The proxy's program: beside this one, or built first.

use std::{
    env,
    ffi::OsStr,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use tokio::process::Command;

use crate::console::{remark, word};

const NAME: &str = "counterfoil-proxy";

/// Path of the proxy's program. When it does not stand beside this program, or is older than it and the source is
/// there, it is built with the same profile: a proxy of another day would not fit.
///
/// # Errors
/// When there is neither the program nor the source to build it from, or the build fails.
pub(crate) async fn proxy() -> anyhow::Result<PathBuf> {
    let own = env::current_exe().context("looking for the path of this program")?;
    let directory = own
        .parent()
        .context("looking for the directory of this program")?;
    let proxy = directory.join(NAME);
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .map(|root| root.join("Cargo.toml"));
    let source = root.filter(|file| file.is_file());
    if proxy.is_file() && (source.is_none() || !older(&proxy, &own)) {
        return Ok(proxy);
    }
    let (Some(manifest), Some(target)) = (source, directory.parent()) else {
        bail!(
            "{} is missing; put it beside {}",
            proxy.display(),
            own.display()
        );
    };
    let arguments = build_arguments(&manifest, target, directory.file_name());
    let why = if proxy.is_file() {
        "is older than this program"
    } else {
        "is not built yet"
    };
    remark(format_args!(
        "{NAME} {why}; building it: cargo {}",
        words(&arguments)
    ));
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(&arguments)
        .status()
        .await
        .context("starting cargo to build the proxy")?;
    if !status.success() || !proxy.is_file() {
        bail!(
            "building {NAME} failed ({status}); build it with: cargo {}",
            words(&arguments)
        );
    }
    Ok(proxy)
}

fn words(arguments: &[String]) -> String {
    let words: Vec<_> = arguments.iter().map(word).collect();
    words.join(" ")
}

/// Whether `file` was written before `than`; false when that cannot be told.
fn older(file: &Path, than: &Path) -> bool {
    let written = |path: &Path| path.metadata().and_then(|of| of.modified());
    matches!((written(file), written(than)), (Ok(file), Ok(than)) if file < than)
}

/// No package is named, as in `cargo run --bin counterfoil`: so the features are those of what is built already.
fn build_arguments(manifest: &Path, target: &Path, profile: Option<&OsStr>) -> Vec<String> {
    let profile = match profile.and_then(OsStr::to_str) {
        Some("debug") | None => "dev",
        Some(profile) => profile,
    };
    vec![
        "build".to_owned(),
        "--profile".to_owned(),
        profile.to_owned(),
        "--bin".to_owned(),
        NAME.to_owned(),
        "--manifest-path".to_owned(),
        manifest.display().to_string(),
        "--target-dir".to_owned(),
        target.display().to_string(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_profile_is_that_of_this_program() {
        let of = |directory: &str| {
            build_arguments(
                Path::new("w/Cargo.toml"),
                Path::new("t"),
                Some(OsStr::new(directory)),
            )
            .join(" ")
        };
        assert_eq!(
            of("release"),
            "build --profile release --bin counterfoil-proxy --manifest-path w/Cargo.toml --target-dir t"
        );
        assert!(of("debug").starts_with("build --profile dev "));
    }
}
