//! `people.toml`: who may come in, of which teams, and what the password must fit.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use counterfoil_entry::tree;
use counterfoil_trust::scram::Verifier;
use serde::Deserialize;

/// A person who may log in.
#[derive(Clone, Debug)]
pub(crate) struct Person {
    pub(crate) name: String,
    pub(crate) teams: Vec<String>,
    pub(crate) admin: bool,
    verifier: Verifier,
}

/// Everybody who may log in.
pub(crate) struct People {
    people: BTreeMap<String, Person>,
    /// Makes verifiers for names that do not exist, so that they cannot be told from others.
    secret: [u8; 32],
}

/// Why the file is refused. Never holds a verifier.
#[derive(Debug, thiserror::Error)]
pub enum PeopleError {
    /// It cannot be read.
    #[error("cannot read people from {file}")]
    Read {
        /// The file.
        file: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// One of them is not good, so that none is taken.
    #[error("cannot read people from {file}: {reason}")]
    Form {
        /// The file.
        file: PathBuf,
        /// Line or name, and what is wrong.
        reason: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    person: Vec<Row>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    name: String,
    verifier: String,
    #[serde(default)]
    teams: Vec<String>,
    #[serde(default)]
    admin: bool,
}

impl fmt::Debug for People {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("People")
            .field("count", &self.people.len())
            .finish_non_exhaustive()
    }
}

impl People {
    /// Reads `[[person]]` tables of `name`, `verifier`, `teams` and `admin` from a TOML file.
    pub(crate) fn load(file: &Path) -> Result<Self, PeopleError> {
        let text = std::fs::read_to_string(file).map_err(|source| PeopleError::Read {
            file: file.to_owned(),
            source,
        })?;
        Self::parse(&text).map_err(|reason| PeopleError::Form {
            file: file.to_owned(),
            reason,
        })
    }

    fn parse(text: &str) -> Result<Self, String> {
        let file: File = toml::from_str(text).map_err(|error| {
            let before = error.span().and_then(|span| text.get(..span.start));
            let line = before.map_or(1, |before| before.matches('\n').count() + 1);
            format!("line {line}: {}", error.message())
        })?;
        let mut people = BTreeMap::new();
        let mut folded = BTreeSet::new();
        for row in file.person {
            let name = row.name;
            let is_bad = |text: &str| {
                text.trim() != text || text.is_empty() || text.contains(|c: char| c.is_control())
            };
            // Basic authentication ends the name at the first colon.
            if is_bad(&name) || name.contains(':') {
                return Err(format!("{name:?} is no name"));
            }
            if let Some(team) = row.teams.iter().find(|team| is_bad(team)) {
                return Err(format!("{name}: {team:?} is no team"));
            }
            // Four eyes compare names as people would, and so must no two be alike.
            if !folded.insert(name.to_lowercase()) {
                return Err(format!("{name} is there twice"));
            }
            let verifier = row.verifier.parse().map_err(|e| format!("{name}: {e}"))?;
            let person = Person {
                name: name.clone(),
                teams: row.teams,
                admin: row.admin,
                verifier,
            };
            people.insert(name, person);
        }
        Ok(Self {
            people,
            // The verifiers in the text keep it secret.
            secret: *tree::sha256(text.as_bytes()).as_bytes(),
        })
    }

    /// The person of a name.
    pub(crate) fn find(&self, name: &str) -> Option<&Person> {
        self.people.get(name)
    }

    /// Whether a password is that of a name. It takes as long when there is no such person; call it
    /// off the network's threads.
    pub(crate) fn fits(&self, name: &str, password: &str) -> bool {
        match self.people.get(name) {
            Some(person) => person.verifier.fits(password),
            None => {
                let alike = self.people.values().next().map(|person| &person.verifier);
                Verifier::of_nobody(&self.secret, name, alike).fits(password)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_with_one_bad_person_is_refused_and_shows_no_verifier() {
        let verifier = Verifier::of_password("x");
        let good =
            format!("[[person]]\nname = \"ann\"\nverifier = \"{verifier}\"\nteams = [\"core\"]\n");
        let people = People::parse(&good).unwrap();
        assert!(people.fits("ann", "x") && !people.fits("ann", "y") && !people.fits("bob", "x"));
        assert!(!people.find("ann").unwrap().admin);
        let again = good.replace("ann", "ANN");
        for (text, expected) in [
            (good.replace("SCRAM", "MD5"), "ann: expected SCRAM"),
            (good.replace("teams", "team"), "line 4: unknown field"),
            (good.replace("\"ann\"", "\"a:b\""), "is no name"),
            (good.replace("\"ann\"", "\" ann\""), "is no name"),
            (good.replace("\"core\"", "\"\""), "is no team"),
            (format!("{good}{again}"), "ANN is there twice"),
        ] {
            let error = People::parse(&text).unwrap_err();
            assert!(error.contains(expected), "{error}");
            assert!(!error.contains(&verifier.to_string()), "{error}");
        }
    }
}
