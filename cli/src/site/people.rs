//! People who may log in at control's door: names, teams and verifiers of passwords in `people.toml`.

use std::{fs, path::Path};

use anyhow::{Context as _, anyhow, bail};
use counterfoil_trust::scram::Verifier;
use serde::{Deserialize, Serialize};

use crate::{
    args::{PeopleCommand, PersonArgs},
    console::{line, raw},
    exit::{Failure, OK, Outcome},
    people::password as prompt,
    site::{known_version, password, write_secret},
};

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct People {
    #[serde(default)]
    person: Vec<Person>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Person {
    name: String,
    verifier: String,
    #[serde(default)]
    teams: Vec<String>,
    #[serde(default)]
    admin: bool,
}

/// Runs `counterfoil people`.
pub(crate) fn run(command: &PeopleCommand) -> Outcome {
    let (PeopleCommand::Add(PersonArgs { data_dir, .. })
    | PeopleCommand::Remove { data_dir, .. }
    | PeopleCommand::List { data_dir }) = command;
    known_version(data_dir).map_err(Failure::of_directory)?;
    match command {
        PeopleCommand::Add(args) => {
            let password = add(&args.data_dir, &args.name, &args.teams, args.admin)?;
            line(format_args!(
                "{} may log in; the password, which is kept nowhere:\n{password}",
                args.name
            ));
        }
        PeopleCommand::Remove { name, data_dir } => {
            let mut people = read(data_dir)?;
            let before = people.person.len();
            people.person.retain(|person| !is_same(&person.name, name));
            if people.person.len() == before {
                return Err(anyhow!("nobody in people.toml is named {name}").into());
            }
            write(data_dir, &people)?;
            line(format_args!("{name} may not log in any more"));
        }
        PeopleCommand::List { data_dir } => {
            for person in read(data_dir)?.person {
                let admin = if person.admin { "  administrator" } else { "" };
                line(format_args!(
                    "{:<24} {}{admin}",
                    person.name,
                    person.teams.join(", ")
                ));
            }
        }
    }
    Ok(OK)
}

/// Adds a person, or gives one that is there a new password and these teams. Returns the password.
///
/// # Errors
/// When the name cannot be one, or the file not be read or written.
pub(crate) fn add(
    root: &Path,
    name: &str,
    teams: &[String],
    admin: bool,
) -> anyhow::Result<String> {
    let name = name.trim();
    if name.is_empty() || name.contains([':', '\n', '\r']) {
        bail!("{name:?} cannot be a log-in name: it must not be empty or hold a colon");
    }
    let mut people = read(root)?;
    if let Some(alike) = people
        .person
        .iter()
        .find(|one| is_same(&one.name, name) && one.name != name)
    {
        bail!(
            "{name:?} would not be told from {:?}, who may log in already: choose another name, or write it so",
            alike.name
        );
    }
    people.person.retain(|person| person.name != name);
    let password = password();
    people.person.push(Person {
        name: name.to_owned(),
        verifier: Verifier::of_password(&password).to_string(),
        teams: teams.to_vec(),
        admin,
    });
    write(root, &people)?;
    Ok(password)
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
        prompt::prompt(&format!("New password{again}"))?
            .context("give the password as PGPASSWORD, or on a terminal")
    };
    let password = asked("")?;
    if asked(", again")? != password {
        bail!("the two are not the same");
    }
    Ok(password)
}

/// A space or a capital letter makes no other person.
fn is_same(one: &str, other: &str) -> bool {
    one.trim().to_lowercase() == other.trim().to_lowercase()
}

fn read(root: &Path) -> anyhow::Result<People> {
    known_version(root)?;
    let file = root.join("people.toml");
    let reading = || format!("reading {}", file.display());
    match fs::read_to_string(&file) {
        Ok(text) => toml::from_str(&text).with_context(reading),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && root.exists() => {
            Ok(People::default())
        }
        Err(error) => Err(error).with_context(reading),
    }
}

fn write(root: &Path, people: &People) -> anyhow::Result<()> {
    let text = toml::to_string(people).context("writing people.toml")?;
    write_secret(&root.join("people.toml"), &text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_is_kept_once_with_a_verifier_that_fits_the_password() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let teams = |names: &[&str]| names.iter().map(|&n| n.to_owned()).collect::<Vec<_>>();
        add(root, "Tom", &teams(&["payments"]), false).unwrap();
        let alike = add(root, "tom ", &teams(&["cards"]), true).unwrap_err();
        assert!(alike.to_string().contains("\"Tom\""), "{alike}");
        let password = add(root, "Tom ", &teams(&["payments", "cards"]), false).unwrap();
        let people = read(root).unwrap();
        assert_eq!(people.person.len(), 1);
        let verifier: Verifier = people.person[0].verifier.parse().unwrap();
        assert!(verifier.fits(&password));
        assert_eq!(people.person[0].teams, ["payments", "cards"]);
        let text = fs::read_to_string(root.join("people.toml")).unwrap();
        assert!(!text.contains(&password), "no password is kept");
        for bad in ["", " ", "a:b"] {
            assert!(add(root, bad, &[], false).is_err(), "{bad:?}");
        }
    }
}
