//! The classes file: how long each class is kept, why, and who answers for it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use counterfoil_entry::Hash;
use counterfoil_entry::id::RetentionClass;
use counterfoil_entry::tree::sha256;
use serde::Deserialize;

use crate::judge::Due;
use crate::plan::PlannedRule;

/// A hundred years.
const DAYS_MAX: u64 = 36_525;
/// A reason stands in every manifest that applies its rule.
const TEXT_BYTES_MAX: usize = 200;

/// Why a classes file is refused, whole.
#[derive(Debug, thiserror::Error)]
pub enum ClassesError {
    /// It cannot be read.
    #[error("reading the classes {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is no TOML, or holds a key that is none.
    #[error("reading the classes {path}: {detail}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Line, key and what is wrong.
        detail: String,
    },
    /// A value cannot be used.
    #[error("reading the classes {path}: {field}: {why}")]
    Field {
        /// The file.
        path: PathBuf,
        /// The key, as in `class.sox_7y.days`.
        field: String,
        /// What is wrong, and what is expected.
        why: String,
    },
}

/// How long a class is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Days, counted from the later of the newest row's time and the sealing.
    pub days: u64,
    /// Why that long.
    pub reason: String,
    /// Who answers for it.
    pub owner: String,
    /// Why fewer days than the class's name promises, when it is so.
    pub shortened_because: Option<String>,
}

/// All classes that have a rule, and the scopes that ask for one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Classes {
    sha256: Hash,
    rules: BTreeMap<RetentionClass, Rule>,
    scopes: BTreeMap<String, RetentionClass>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    class: BTreeMap<String, Row>,
    #[serde(default)]
    scope: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    days: Option<u64>,
    reason: Option<String>,
    owner: Option<String>,
    shortened_because: Option<String>,
}

impl Classes {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// [`ClassesError`], naming file and field.
    pub fn load(path: &Path) -> Result<Self, ClassesError> {
        let text = std::fs::read_to_string(path).map_err(|source| ClassesError::Read {
            path: path.to_owned(),
            source,
        })?;
        let file: File = toml::from_str(&text).map_err(|error| ClassesError::Parse {
            path: path.to_owned(),
            detail: error.to_string().trim_end().to_owned(),
        })?;
        Self::of(file, sha256(text.as_bytes())).map_err(|(field, why)| ClassesError::Field {
            path: path.to_owned(),
            field,
            why,
        })
    }

    fn of(file: File, sha256: Hash) -> Result<Self, (String, String)> {
        let mut rules = BTreeMap::new();
        for (name, row) in file.class {
            let field = format!("class.{name}");
            let class = RetentionClass::parse(&name).map_err(|e| (field.clone(), e.to_string()))?;
            if class.is_permanent() {
                return Err((field, "what is permanent never ends".to_owned()));
            }
            rules.insert(class.clone(), row.rule(&class)?);
        }
        let mut scopes = BTreeMap::new();
        for (scope, name) in file.scope {
            let known = rules.keys().find(|class| class.as_str() == name);
            let class = known.ok_or_else(|| {
                let why = format!("there is no class {name:?} in this file");
                (format!("scope.{scope}"), why)
            })?;
            scopes.insert(scope, class.clone());
        }
        Ok(Self {
            sha256,
            rules,
            scopes,
        })
    }

    /// SHA-256 of the file.
    #[must_use]
    pub const fn sha256(&self) -> Hash {
        self.sha256
    }

    /// The rule of a class.
    #[must_use]
    pub fn rule(&self, class: &RetentionClass) -> Option<&Rule> {
        self.rules.get(class)
    }

    /// Whether a scope may ask for a longer class than a row's own.
    #[must_use]
    pub fn has_scopes(&self) -> bool {
        !self.scopes.is_empty()
    }

    /// The class whose rule holds for rows of `class` in these scopes: the one that keeps them longest.
    /// `None` when the class has no rule: then nothing of it ever ends.
    #[must_use]
    pub fn governing<'a>(
        &'a self,
        class: &'a RetentionClass,
        scopes: impl Iterator<Item = &'a str>,
    ) -> Option<(&'a RetentionClass, &'a Rule)> {
        let own = self.rules.get_key_value(class)?;
        let asked = scopes
            .filter_map(|scope| self.scopes.get(scope))
            .filter_map(|class| self.rules.get_key_value(class));
        asked.chain([own]).max_by_key(|(class, rule)| {
            // Of two that keep equally long the row's own is named.
            (rule.days, *class == own.0)
        })
    }
}

impl Classes {
    /// The rules that are applied to what is due, as a plan states them.
    pub(crate) fn planned(&self, due: &[Due]) -> Vec<PlannedRule> {
        let applied: BTreeSet<&RetentionClass> = due.iter().map(|one| &one.rule).collect();
        let rules = applied.into_iter().filter_map(|class| {
            self.rule(class).map(|rule| PlannedRule {
                class: class.to_string(),
                days: rule.days,
                reason: rule.reason.clone(),
                owner: rule.owner.clone(),
                shortened_because: rule.shortened_because.clone(),
            })
        });
        rules.collect()
    }
}

impl Row {
    fn rule(self, class: &RetentionClass) -> Result<Rule, (String, String)> {
        let field = |name: &str| format!("class.{class}.{name}");
        let must = |name: &str, value: Option<String>| {
            value
                .filter(|text| !text.trim().is_empty())
                .ok_or_else(|| (field(name), "it must be given".to_owned()))
        };
        let days = self
            .days
            .ok_or_else(|| (field("days"), "it must be given".to_owned()))?;
        if days > DAYS_MAX {
            return Err((field("days"), format!("{days} is more than {DAYS_MAX}")));
        }
        let rule = Rule {
            days,
            reason: must("reason", self.reason)?,
            owner: must("owner", self.owner)?,
            shortened_because: self.shortened_because,
        };
        for (name, text) in [("reason", &rule.reason), ("owner", &rule.owner)] {
            if text.len() > TEXT_BYTES_MAX {
                return Err((
                    field(name),
                    format!("it is longer than {TEXT_BYTES_MAX} bytes"),
                ));
            }
        }
        let promised = promised_days(class);
        let is_shortened = rule
            .shortened_because
            .as_deref()
            .is_some_and(|why| !why.trim().is_empty());
        if days < promised && !is_shortened {
            let why = format!(
                "{days} is less than the {promised} days that the name promises: keep them, or say why with shortened_because"
            );
            return Err((field("days"), why));
        }
        Ok(rule)
    }
}

/// The days that a class's name promises at least: a month has 30, a year 365.
fn promised_days(class: &RetentionClass) -> u64 {
    let Some((_, ending)) = class.as_str().rsplit_once('_') else {
        return 0;
    };
    let count = |unit: char| {
        ending
            .strip_suffix(unit)
            .and_then(|n| n.parse::<u64>().ok())
    };
    let days = count('d')
        .or_else(|| count('m').map(|months| months.saturating_mul(30)))
        .or_else(|| count('y').map(|years| years.saturating_mul(365)));
    days.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "
[class.sox_7y]
days = 2557
reason = \"SOX section 802\"
owner = \"finance\"

[class.pci_12m]
days = 365
reason = \"PCI DSS 10.5.1\"
owner = \"cards\"

[class.ops_90d]
days = 90
reason = \"operations\"
owner = \"platform\"

[scope]
sox = \"sox_7y\"
pci = \"pci_12m\"
";

    fn load(text: &str) -> Result<Classes, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("classes.toml");
        std::fs::write(&path, text).unwrap();
        Classes::load(&path).map_err(|error| {
            let text = error.to_string();
            assert!(text.contains("classes.toml"), "{text}");
            text
        })
    }

    fn class(name: &str) -> RetentionClass {
        RetentionClass::parse(name).unwrap()
    }

    #[test]
    fn the_longest_class_that_a_scope_asks_for_wins() {
        let classes = load(GOOD).unwrap();
        let ops = class("ops_90d");
        let governing = |scopes: &[&'static str]| {
            let found = classes.governing(&ops, scopes.iter().copied());
            found.map(|(class, rule)| (class.as_str().to_owned(), rule.days))
        };
        assert_eq!(governing(&[]), Some(("ops_90d".to_owned(), 90)));
        assert_eq!(governing(&["pci", "x"]), Some(("pci_12m".to_owned(), 365)));
        assert_eq!(
            governing(&["sox", "pci"]),
            Some(("sox_7y".to_owned(), 2557))
        );
        let unruled = class("audit_7y");
        assert_eq!(classes.governing(&unruled, ["sox"].into_iter()), None);
    }

    #[test]
    fn a_file_with_one_bad_field_is_refused_and_names_it() {
        for (from, to, expected) in [
            (
                "reason = \"SOX section 802\"\n",
                "",
                "class.sox_7y.reason: it must be given",
            ),
            (
                "owner = \"cards\"",
                "owner = \" \"",
                "class.pci_12m.owner: it must be given",
            ),
            ("days = 90\n", "", "class.ops_90d.days: it must be given"),
            (
                "days = 90\n",
                "days = 30\n",
                "class.ops_90d.days: 30 is less than the 90 days",
            ),
            (
                "days = 90\n",
                "days = 99999\n",
                "class.ops_90d.days: 99999 is more",
            ),
            ("days = 90\n", "days = -1\n", "invalid value"),
            (
                "class.ops_90d",
                "class.permanent",
                "class.permanent: what is permanent",
            ),
            ("class.ops_90d", "class.ops", "class.ops: "),
            (
                "sox = \"sox_7y\"",
                "sox = \"sox_8y\"",
                "scope.sox: there is no class",
            ),
            ("[scope]", "[scopes]", "unknown field"),
        ] {
            let error = load(&GOOD.replacen(from, to, 1)).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_class_can_be_shortened_with_a_reason() {
        let text = GOOD.replace("days = 90\n", "days = 0\nshortened_because = \"a drill\"\n");
        let classes = load(&text).unwrap();
        assert_eq!(classes.rule(&class("ops_90d")).unwrap().days, 0);
        assert_ne!(classes.sha256(), load(GOOD).unwrap().sha256());
    }
}
