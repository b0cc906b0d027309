//! A synthetic bank, for tests, demonstrations and measurements: the same seed gives the same estate.
//!
//! An *application* is what a team owns; each has one API. A *workload* is what runs and has an
//! identity: most serve the APIs of one to four applications, some only call others. A *grant* lets one
//! workload call operations of one API. A few platform services are called by very many, most by few.
//!
//! [`Estate::generate`] gives it as data, [`Estate::import`] as the body of `POST /v1/import`, and
//! [`import_body`] does both at once. Nothing of it is secret: join tokens are the caller's.

mod dependencies;
mod dice;
mod document;
mod import;
mod names;
mod operations;
mod organisation;
mod size;

pub use import::import_body;
pub use size::Size;

use dice::Dice;

/// A bank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Estate {
    /// Trust domain of every identity, and mail domain of every person.
    pub trust_domain: String,
    /// Who owns applications.
    pub teams: Vec<Team>,
    /// What is owned: [`Size::applications`] of them.
    pub apis: Vec<Api>,
    /// What runs: [`Size::workloads`] of them.
    pub workloads: Vec<Workload>,
    /// Who may call what, all approved and in force.
    pub grants: Vec<Grant>,
}

/// A team and its people, of whom there are at least two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Team {
    /// Unique name, as in `payments-heron`.
    pub name: String,
    /// Business domain, as in `payments`.
    pub domain: &'static str,
    /// Mail addresses.
    pub people: Vec<String>,
}

/// How much the bank depends on something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Criticality {
    /// May be away for days.
    Standard,
    /// May be away for hours.
    Important,
    /// Customers notice within minutes.
    Critical,
    /// Nearly everything stands on it.
    Platform,
}

impl Criticality {
    /// The word for it, as documents hold it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Standard => "standard",
            Self::Important => "important",
            Self::Critical => "critical",
            Self::Platform => "platform",
        }
    }
}

/// The API of one application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Api {
    /// Unique name, which is also the application's and the first segment of every path.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Name of the owning team.
    pub team: String,
    /// SPIFFE id of the workload that serves it.
    pub server: String,
    /// How much depends on it.
    pub criticality: Criticality,
    /// Retention class of its entries.
    pub class: &'static str,
    /// Scopes of evidence: `sox`, `pci`, `pii`.
    pub scopes: Vec<&'static str>,
    /// From 1 to 40.
    pub operations: Vec<Operation>,
}

/// One operation of an API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Unique in its API.
    pub name: String,
    /// HTTP method in upper case.
    pub method: &'static str,
    /// Path template; its first segment is the API's name.
    pub route: String,
    /// Whether it may be called without a grant.
    pub open: bool,
}

impl Operation {
    /// A path that the template matches.
    #[must_use]
    pub fn path(&self) -> String {
        self.route.replace("{id}", "4711")
    }
}

/// Something that runs and has an identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Its identity.
    pub spiffe_id: String,
    /// Unique host name.
    pub name: String,
    /// The application that it is named for.
    pub app: String,
    /// The team that answers for it.
    pub team: String,
    /// How much depends on it.
    pub criticality: Criticality,
    /// Where it runs.
    pub site: &'static str,
    /// Where in the site.
    pub zone: &'static str,
    /// Its inbound listener; nobody listens there.
    pub address: String,
}

/// Leave for one workload to call operations of one API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// SPIFFE id of the caller.
    pub consumer: String,
    /// Name of the API.
    pub api: String,
    /// Names of operations, or `*` alone for all of them.
    pub operations: Vec<String>,
    /// Why.
    pub purpose: &'static str,
    /// Ticket of the request.
    pub ticket: String,
    /// A person of the consumer's team.
    pub requested_by: String,
    /// Another person, of the API's team.
    pub approved_by: String,
    /// How long it has been in force (days).
    pub age_days: u16,
    /// How long it will be (days).
    pub left_days: u16,
}

impl Estate {
    /// The estate of this size and seed.
    #[must_use]
    pub fn generate(size: &Size, seed: u64, trust_domain: &str) -> Self {
        let mut dice = Dice::new(seed);
        let mut estate = organisation::generate(size, &mut dice, trust_domain);
        estate.grants = dependencies::generate(size, &estate, &mut dice);
        estate
    }

    /// The API of this name.
    #[must_use]
    pub fn api(&self, name: &str) -> Option<&Api> {
        self.apis.iter().find(|api| api.name == name)
    }

    /// Names of the platform's APIs, from the most called one down.
    #[must_use]
    pub fn most_called(&self) -> Vec<(&str, usize)> {
        let mut calls = std::collections::BTreeMap::<&str, usize>::new();
        for grant in &self.grants {
            *calls.entry(&grant.api).or_default() += 1;
        }
        let mut calls: Vec<_> = calls.into_iter().collect();
        calls.sort_by(|one, other| other.1.cmp(&one.1).then(one.0.cmp(other.0)));
        calls
    }
}

#[cfg(test)]
mod tests;
