//! The list of all checks, by group.

mod books;
mod headers;
mod paths;
mod smuggling;
mod tls;
mod tokens;

use crate::check::{Check, Severity};

use Severity::{Critical, High, Medium};

macro_rules! check {
    ($id:literal, $severity:expr, $run:path, $title:literal) => {
        Check {
            id: $id,
            title: $title,
            severity: $severity,
            run: |rig| Box::pin($run(rig)),
        }
    };
}

/// Every check, in the order in which reports show them. Ids are stable and never used again.
#[must_use]
pub fn all() -> &'static [Check] {
    ALL
}

/// An id or group that no check has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no check is called {0}; the list shows them all")]
pub struct UnknownCheck(pub String);

/// The checks that `words` name, each a group as in `T` or an id as in `P01`; all when there is none.
///
/// # Errors
/// [`UnknownCheck`] for the first word that names nothing.
pub fn select(words: &[String]) -> Result<Vec<Check>, UnknownCheck> {
    let names = |word: &str, check: &Check| {
        let group = word.len() == 1 && check.id.starts_with(&word.to_uppercase());
        group || check.id.eq_ignore_ascii_case(word)
    };
    for word in words {
        if !ALL.iter().any(|check| names(word, check)) {
            return Err(UnknownCheck(word.clone()));
        }
    }
    let wanted = |check: &&Check| words.is_empty() || words.iter().any(|word| names(word, check));
    Ok(ALL.iter().filter(wanted).copied().collect())
}

const ALL: &[Check] = &[
    check!(
        "T01",
        Critical,
        tls::plaintext,
        "plain text on the mutual-TLS port gets no HTTP answer"
    ),
    check!(
        "T02",
        Critical,
        tls::no_certificate,
        "a caller without a certificate is refused"
    ),
    check!(
        "T03",
        Critical,
        tls::foreign,
        "a certificate of another CA, or of none, is refused"
    ),
    check!(
        "T04",
        Critical,
        tls::expired,
        "an expired certificate is refused"
    ),
    check!(
        "T05",
        Critical,
        tls::not_yet_valid,
        "a certificate that is not valid yet is refused"
    ),
    check!(
        "T06",
        Critical,
        tls::identity,
        "a certificate without exactly one SPIFFE id of the trust domain is refused"
    ),
    check!(
        "T07",
        High,
        tls::usage,
        "a server's certificate or a CA's is not taken from a client"
    ),
    check!(
        "T08",
        High,
        tls::legacy,
        "TLS before 1.3 and weak suites are refused"
    ),
    check!(
        "T09",
        Critical,
        tls::impostor,
        "a server of the right CA but of another identity is not called"
    ),
    check!(
        "T10",
        High,
        tls::resumption,
        "early data is not taken, and a resumed session does not outlive its certificate"
    ),
    check!(
        "J01",
        Critical,
        tokens::missing,
        "a call without a token is denied"
    ),
    check!(
        "J02",
        Critical,
        tokens::alg_none,
        "a token with alg none is denied"
    ),
    check!(
        "J03",
        Critical,
        tokens::hs256,
        "a token signed by HMAC with the public key is denied"
    ),
    check!(
        "J04",
        Critical,
        tokens::unknown_kid,
        "a token of an unknown key is denied"
    ),
    check!(
        "J05",
        Critical,
        tokens::key_in_header,
        "a key that the token itself names is not believed"
    ),
    check!(
        "J06",
        Critical,
        tokens::audience,
        "a token for another audience is denied"
    ),
    check!(
        "J07",
        Critical,
        tokens::issuer,
        "a token of another issuer is denied"
    ),
    check!(
        "J08",
        Critical,
        tokens::expired,
        "an expired token is denied"
    ),
    check!(
        "J09",
        Critical,
        tokens::not_yet,
        "a token that is not valid yet is denied"
    ),
    check!(
        "J10",
        Critical,
        tokens::ill_typed,
        "missing or ill-typed times are not taken for no limit"
    ),
    check!(
        "J11",
        Critical,
        tokens::no_scope,
        "a token without the operation's scope is denied"
    ),
    check!(
        "J12",
        Critical,
        tokens::near_scope,
        "a scope that only resembles the operation's is denied"
    ),
    check!(
        "J13",
        Critical,
        tokens::stolen,
        "a token bound to another certificate is denied"
    ),
    check!(
        "J14",
        Critical,
        tokens::unbound,
        "a token that is bound to no certificate is denied"
    ),
    check!(
        "J15",
        Critical,
        tokens::other_subject,
        "a token of another subject is denied"
    ),
    check!("J16", High, tokens::revoked, "a revoked token is denied"),
    check!(
        "J17",
        Medium,
        tokens::leeway,
        "clocks may stand apart by the promised leeway and no more"
    ),
    check!(
        "J18",
        High,
        tokens::misplaced,
        "tokens in the query, twice, or of absurd length are denied and never logged"
    ),
    check!(
        "P01",
        Critical,
        paths::encoded,
        "encoded dots, slashes and double encoding find no way around a rule"
    ),
    check!(
        "P02",
        Critical,
        paths::dots,
        "empty, dot and trailing segments find no way around a rule"
    ),
    check!(
        "P03",
        Critical,
        paths::parameters,
        "path parameters find no way around a rule"
    ),
    check!(
        "P04",
        High,
        paths::case,
        "a path in another case is not the declared one"
    ),
    check!(
        "P05",
        Critical,
        paths::bytes,
        "backslashes, NUL, control bytes and invalid UTF-8 are refused"
    ),
    check!(
        "P06",
        Medium,
        paths::fragment,
        "a fragment is not forwarded"
    ),
    check!(
        "P07",
        Critical,
        paths::hosts,
        "a request with none, two or contradicting hosts is refused"
    ),
    check!(
        "P08",
        Critical,
        paths::overrides,
        "headers that override method or path have no effect"
    ),
    check!(
        "P09",
        High,
        paths::methods,
        "undeclared and unknown methods, TRACE and CONNECT are denied"
    ),
    check!(
        "S01",
        Critical,
        smuggling::both_lengths,
        "content-length beside transfer-encoding smuggles no second request"
    ),
    check!(
        "S02",
        Critical,
        smuggling::malformed,
        "contradicting lengths and malformed header lines are refused"
    ),
    check!(
        "S03",
        Medium,
        smuggling::equal_lengths,
        "two equal content-length headers are refused or made one"
    ),
    check!(
        "S04",
        High,
        smuggling::codings,
        "transfer codings besides chunked are refused"
    ),
    check!(
        "S05",
        High,
        smuggling::bare_lf,
        "lines that end in a bare LF are refused"
    ),
    check!(
        "S06",
        High,
        smuggling::chunks,
        "malformed chunks end the request"
    ),
    check!(
        "S07",
        High,
        smuggling::http10,
        "transfer-encoding in HTTP/1.0 is refused"
    ),
    check!(
        "S08",
        Critical,
        smuggling::frames,
        "HTTP/2 requests that HTTP/1.1 would read differently are refused"
    ),
    check!(
        "S09",
        High,
        smuggling::nominated,
        "Connection takes hop-by-hop headers away, and none on which the message rests"
    ),
    check!(
        "H01",
        Critical,
        headers::forged,
        "headers that claim who calls do not reach the application"
    ),
    check!(
        "H02",
        High,
        headers::trace_kept,
        "a valid traceparent keeps its trace and gets a new parent"
    ),
    check!(
        "H03",
        High,
        headers::trace_malformed,
        "a malformed traceparent begins a new trace"
    ),
    check!(
        "H04",
        High,
        headers::tracestate,
        "tracestate is kept in order, within its limits"
    ),
    check!(
        "H05",
        Medium,
        headers::baggage,
        "baggage beyond its limit is not forwarded"
    ),
    check!(
        "A01",
        Critical,
        books::allow_once,
        "an allowed call is in the books once for each side, and the two join"
    ),
    check!(
        "A02",
        Critical,
        books::deny_once,
        "a denied call is in the books once, with reason and bundle"
    ),
    check!(
        "A03",
        Critical,
        books::broken_calls,
        "calls that are broken off, reset or time out are in the books with their outcome"
    ),
    check!(
        "A06",
        Critical,
        books::secrets,
        "no credential, cookie, card number or query value is in books or logs"
    ),
    check!(
        "A07",
        High,
        books::replayed,
        "a batch that is sent twice is stored once"
    ),
    check!(
        "A09",
        High,
        books::shadow,
        "the candidate's verdict is in the books and decides nothing"
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_a_letter_and_two_digits_and_stand_once() {
        let mut ids: Vec<_> = ALL.iter().map(|check| check.id).collect();
        for id in &ids {
            let (group, number) = id.split_at(1);
            assert!("TJPSHA".contains(group) && number.len() == 2, "{id}");
            assert!(number.chars().all(|c| c.is_ascii_digit()), "{id}");
        }
        let count = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), count);
        assert!(count >= 30, "{count}");
    }

    #[test]
    fn the_documentation_lists_every_check() {
        let page = include_str!("../../docs/conformance.md");
        for check in ALL {
            let severity = check.severity.as_str();
            let line = format!("| {} | {severity} | {} |", check.id, check.title);
            assert!(page.contains(&line), "{line}");
        }
    }

    #[test]
    fn groups_and_ids_select() {
        let ids = |words: &[&str]| {
            let words: Vec<_> = words.iter().map(|word| (*word).to_owned()).collect();
            select(&words).map(|checks| checks.iter().map(|check| check.id).collect::<Vec<_>>())
        };
        assert_eq!(ids(&["P01", "t10"]).unwrap(), ["T10", "P01"]);
        assert_eq!(ids(&["h"]).unwrap().len(), 5);
        assert_eq!(ids(&[]).unwrap().len(), ALL.len());
        assert_eq!(ids(&["T", "Z9"]), Err(UnknownCheck("Z9".to_owned())));
    }
}
