//! Who may ask: the users file, which holds verifiers and never a password.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use counterfoil_entry::tree;
use serde::Deserialize;

use crate::engine::Limits;
use counterfoil_trust::scram::{Verifier, VerifierError};

/// What a user is for; decides the limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Reads everything, in long statements.
    Auditor,
    /// Dashboards and incidents: short statements.
    Sre,
    /// Runs the mesh.
    Admin,
}

impl Role {
    /// The role's name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auditor => "auditor",
            Self::Sre => "sre",
            Self::Admin => "admin",
        }
    }

    /// What a statement of this role may cost.
    #[must_use]
    pub const fn limits(self) -> Limits {
        match self {
            Self::Auditor | Self::Admin => Limits {
                timeout: Duration::from_mins(30),
                rows_max: 50_000_000,
            },
            Self::Sre => Limits {
                timeout: Duration::from_mins(2),
                rows_max: 1_000_000,
            },
        }
    }
}

/// A user who may log in.
#[derive(Debug, Clone)]
pub struct User {
    /// Log-in name.
    pub name: String,
    /// The user's role.
    pub role: Role,
    /// What the password must fit.
    pub verifier: Verifier,
}

/// Why the users file was refused.
#[derive(Debug, thiserror::Error)]
pub enum UsersError {
    /// It cannot be read.
    #[error("reading users from {file}")]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not what it should be.
    #[error("reading users from {file}: {detail}")]
    Form {
        /// The file.
        file: PathBuf,
        /// What does not fit; never holds a verifier.
        detail: String,
    },
    /// A verifier cannot be read.
    #[error("reading users from {file}: the verifier of user {name}")]
    Verifier {
        /// The file.
        file: PathBuf,
        /// The user.
        name: String,
        /// Why.
        source: VerifierError,
    },
}

/// Everyone who may log in.
pub struct Users {
    users: HashMap<String, User>,
    /// Makes verifiers for names that do not exist, so that they cannot be told from others.
    secret: [u8; 32],
}

impl fmt::Debug for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Users")
            .field("count", &self.users.len())
            .finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    user: Vec<Row>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    name: String,
    role: Role,
    verifier: String,
}

impl Users {
    /// Reads `[[user]]` tables of `name`, `role` and `verifier` from a TOML file.
    ///
    /// # Errors
    /// [`UsersError`]; one bad user refuses the file.
    pub fn load(file: &Path) -> Result<Self, UsersError> {
        let text = std::fs::read_to_string(file).map_err(|source| UsersError::Read {
            file: file.to_owned(),
            source,
        })?;
        Self::parse(file, &text)
    }

    /// Reads the text of a users file.
    ///
    /// # Errors
    /// [`UsersError`]
    pub fn parse(file: &Path, text: &str) -> Result<Self, UsersError> {
        let form = |detail: String| UsersError::Form {
            file: file.to_owned(),
            detail,
        };
        let rows: File = toml::from_str(text).map_err(|error| {
            let line = error.span().map(|span| {
                text.bytes()
                    .take(span.start)
                    .filter(|b| *b == b'\n')
                    .count()
                    + 1
            });
            let line = line.map_or_else(String::new, |line| format!(" in line {line}"));
            form(format!("{}{line}", error.message()))
        })?;
        let mut users = HashMap::new();
        for row in rows.user {
            let verifier = row
                .verifier
                .parse()
                .map_err(|source| UsersError::Verifier {
                    file: file.to_owned(),
                    name: row.name.clone(),
                    source,
                })?;
            let user = User {
                name: row.name.clone(),
                role: row.role,
                verifier,
            };
            if users.insert(row.name.clone(), user).is_some() {
                return Err(form(format!("user {} is there twice", row.name)));
            }
        }
        Ok(Self {
            users,
            // The same after a restart, as a real salt is; the verifiers in the text keep it secret.
            secret: *tree::sha256(text.as_bytes()).as_bytes(),
        })
    }

    /// Everybody's name and role, by name.
    #[must_use]
    pub fn names_and_roles(&self) -> Vec<(String, &'static str)> {
        let users = self.users.values();
        let mut rows: Vec<_> = users
            .map(|user| (user.name.clone(), user.role.as_str()))
            .collect();
        rows.sort_unstable();
        rows
    }

    /// The user, and the verifier to check a log-in against: for an unknown name one that never fits.
    #[must_use]
    pub fn find(&self, name: &str) -> (Option<&User>, Verifier) {
        match self.users.get(name) {
            Some(user) => (Some(user), user.verifier.clone()),
            None => {
                let alike = self.users.values().min_by(|a, b| a.name.cmp(&b.name));
                let alike = alike.map(|user| &user.verifier);
                (None, Verifier::of_nobody(&self.secret, name, alike))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_users_file_is_refused_with_the_user_or_line() {
        let verifier = Verifier::of_password("x");
        let good =
            format!("[[user]]\nname = \"a\"\nrole = \"auditor\"\nverifier = \"{verifier}\"\n");
        let users = Users::parse(Path::new("u.toml"), &good).unwrap();
        assert_eq!(users.find("a").0.unwrap().role, Role::Auditor);
        assert!(users.find("b").0.is_none());
        let again = Users::parse(Path::new("u.toml"), &good).unwrap();
        assert_eq!(users.find("b").1, again.find("b").1, "also after a restart");
        let costly = good.replace("$4096:", "$9000:");
        let costly = Users::parse(Path::new("u.toml"), &costly).unwrap();
        assert!(costly.find("b").1.to_string().contains("$9000:"));
        let twice = format!("{good}{good}");
        for (text, expected) in [
            (good.replace("SCRAM", "MD5"), "user a"),
            (good.replace("auditor", "root"), "line 3"),
            (good.replace("role", "rolle"), "line"),
            (twice, "twice"),
        ] {
            let error = Users::parse(Path::new("u.toml"), &text)
                .unwrap_err()
                .to_string();
            assert!(
                error.contains(expected) && error.contains("u.toml"),
                "{error}"
            );
            assert!(!error.contains(&verifier.to_string()), "{error}");
        }
    }
}
