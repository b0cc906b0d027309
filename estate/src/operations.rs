//! What can be called on an API.

use crate::Operation;
use crate::names::{Domain, camel};

/// APIs of this many operations say how they are without a grant.
const WITH_STATUS: usize = 8;

/// Verb, method, and what follows the noun in the path.
const PATTERNS: [(&str, &str, &str); 8] = [
    ("list", "GET", ""),
    ("get", "GET", "/{id}"),
    ("create", "POST", ""),
    ("replace", "PUT", "/{id}"),
    ("delete", "DELETE", "/{id}"),
    ("history", "GET", "/{id}/history"),
    ("approve", "POST", "/{id}/approvals"),
    ("amend", "PATCH", "/{id}"),
];

/// The first `count` operations of an API, which begins with the `begin`-th noun of its domain.
pub(crate) fn generate(api: &str, domain: &Domain, begin: usize, count: usize) -> Vec<Operation> {
    let nouns = domain.nouns.iter().cycle().skip(begin % domain.nouns.len());
    let all = nouns.take(domain.nouns.len()).flat_map(|noun| {
        PATTERNS.iter().map(move |(verb, method, rest)| Operation {
            name: format!("{verb}{}", camel(noun)),
            method,
            route: format!("/{api}/{noun}{rest}"),
            open: false,
        })
    });
    if count < WITH_STATUS {
        return all.take(count).collect();
    }
    let status = Operation {
        name: "getStatus".to_owned(),
        method: "GET",
        route: format!("/{api}/status"),
        open: true,
    };
    all.take(count - 1).chain([status]).collect()
}
