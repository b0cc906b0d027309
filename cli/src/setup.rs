//! What an estate begins with: its keys, and the passwords of people.

use std::path::Path;

use anyhow::{Context as _, anyhow, bail};
use counterfoil_columns::directory::DataDirectory;
use counterfoil_trust::{SpiffeId, scram::Verifier};

use crate::{
    args::InitArgs,
    console::raw,
    demo::provision::quoted,
    exit::{Failure, OK, Outcome},
    people::password,
};

/// Makes what is missing of a data directory, its root certificate and its keys; prints what proxies must know.
pub(crate) fn init(args: &InitArgs) -> Outcome {
    let id = SpiffeId::parse(&format!(
        "spiffe://{}/counterfoil/control",
        args.trust_domain
    ));
    if !id.is_ok_and(|id| id.trust_domain() == args.trust_domain) {
        let error = anyhow!(
            "{:?} is no trust domain, as in bank.test",
            args.trust_domain
        );
        return Err(Failure::usage(error));
    }
    raw(made(&args.directory, &args.trust_domain)?);
    Ok(OK)
}

fn made(directory: &Path, trust_domain: &str) -> anyhow::Result<String> {
    let making = || format!("making {}", directory.display());
    std::fs::create_dir_all(directory).with_context(making)?;
    let path = directory.canonicalize().with_context(making)?;
    let data = DataDirectory::create(path).with_context(making)?;
    let keys = counterfoil_control::init(data.root(), trust_domain).with_context(making)?;
    let roots = data.root().join("control").join("ca.pem");
    Ok(format!(
        "roots_file = {}\ngovernance_key = \"{}\"\ncontrol_key = \"{}\"",
        quoted(&roots.display().to_string()),
        hex::encode(keys.governance_public),
        hex::encode(keys.control_public),
    ))
}

/// Prints what `people.toml` and `users.toml` keep of a password.
pub(crate) fn verifier() -> Outcome {
    let password = match std::env::var("PGPASSWORD") {
        Ok(password) => password,
        Err(_) => asked_for()?,
    };
    if password.is_empty() {
        return Err(Failure::usage(anyhow!("the password is empty")));
    }
    raw(Verifier::of_password(&password));
    Ok(OK)
}

fn asked_for() -> anyhow::Result<String> {
    let asked = |again: &str| -> anyhow::Result<String> {
        password::prompt(&format!("New password{again}"))?
            .context("give the password as PGPASSWORD, or on a terminal")
    };
    let password = asked("")?;
    if asked(", again")? != password {
        bail!("the two are not the same");
    }
    Ok(password)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_made_once_and_printed_as_a_proxy_reads_them() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        let first = made(&data, "bank.test").unwrap();
        let read: toml::Table = first.parse().unwrap();
        let roots = read["roots_file"].as_str().unwrap();
        assert!(
            std::fs::read_to_string(roots)
                .unwrap()
                .contains("BEGIN CERTIFICATE")
        );
        for key in ["governance_key", "control_key"] {
            assert_eq!(read[key].as_str().unwrap().len(), 64);
        }
        assert_eq!(made(&data, "bank.test").unwrap(), first);
        assert!(made(&data, "other.test").is_err(), "of another estate");
    }
}
