//! Words of a bank.

/// A business domain.
#[derive(Debug)]
pub(crate) struct Domain {
    pub(crate) name: &'static str,
    /// What its APIs are about: at least six, so that 40 operations have names.
    pub(crate) nouns: [&'static str; 6],
    /// Scopes of evidence that its APIs may fall under.
    pub(crate) scopes: &'static [&'static str],
}

const fn domain(
    name: &'static str,
    nouns: [&'static str; 6],
    scopes: &'static [&'static str],
) -> Domain {
    Domain {
        name,
        nouns,
        scopes,
    }
}

/// The first is the platform, on which the others stand.
#[rustfmt::skip]
pub(crate) static DOMAINS: [Domain; 24] = [
    domain("platform", ["sessions", "secrets", "flags", "schedules", "messages", "audits"], &[]),
    domain("payments", ["transfers", "batches", "mandates", "refunds", "cutoffs", "limits"], &["sox"]),
    domain("cards", ["cards", "authorisations", "disputes", "pins", "tokens", "settlements"], &["pci", "sox"]),
    domain("accounts", ["accounts", "balances", "statements", "holders", "blocks", "closures"], &["sox", "pii"]),
    domain("customers", ["customers", "addresses", "consents", "contacts", "households", "segments"], &["pii"]),
    domain("ledger", ["journals", "postings", "periods", "reconciliations", "entities", "charts"], &["sox"]),
    domain("savings", ["deposits", "rates", "goals", "bonuses", "terms", "withdrawals"], &["sox"]),
    domain("mortgages", ["applications", "offers", "valuations", "collaterals", "deeds", "repayments"], &["sox", "pii"]),
    domain("lending", ["loans", "schedules", "arrears", "guarantees", "covenants", "drawdowns"], &["sox"]),
    domain("treasury", ["positions", "forecasts", "swaps", "fundings", "haircuts", "nostros"], &["sox"]),
    domain("markets", ["orders", "quotes", "trades", "allocations", "venues", "instruments"], &["sox"]),
    domain("custody", ["holdings", "corporate-actions", "dividends", "proxies", "transfers", "vaults"], &["sox"]),
    domain("trade", ["credits", "collections", "shipments", "bills", "vessels", "inspections"], &[]),
    domain("insurance", ["policies", "claims", "premiums", "brokers", "coverages", "assessors"], &["pii"]),
    domain("pensions", ["schemes", "members", "contributions", "benefits", "employers", "projections"], &["pii"]),
    domain("onboarding", ["prospects", "verifications", "documents", "signatures", "screenings", "mailings"], &["pii"]),
    domain("identity", ["logins", "devices", "credentials", "challenges", "delegations", "roles"], &["pii"]),
    domain("fraud", ["alerts", "cases", "scores", "rules", "lists", "patterns"], &["pci"]),
    domain("sanctions", ["matches", "watchlists", "reviews", "releases", "parties", "countries"], &[]),
    domain("regulatory", ["filings", "returns", "taxonomies", "extracts", "validations", "attestations"], &["sox"]),
    domain("pricing", ["tariffs", "fees", "discounts", "campaigns", "curves", "margins"], &[]),
    domain("documents", ["letters", "templates", "archives", "scans", "envelopes", "folders"], &["pii"]),
    domain("channels", ["screens", "menus", "notices", "widgets", "journeys", "feedback"], &[]),
    domain("data", ["feeds", "snapshots", "lineages", "catalogs", "models", "exports"], &[]),
];

/// What an application does with the things that it is about.
pub(crate) const KINDS: [&str; 16] = [
    "registry", "engine", "gateway", "desk", "monitor", "history", "search", "rules", "calendar",
    "events", "reports", "limits", "intake", "router", "mirror", "planner",
];

/// Second part of a team's name.
pub(crate) const TEAMS: [&str; 36] = [
    "heron", "otter", "falcon", "badger", "lynx", "osprey", "marten", "bison", "plover", "ibex",
    "tern", "wolf", "stork", "hare", "kestrel", "beaver", "egret", "fox", "gull", "moose", "owl",
    "puffin", "raven", "seal", "swift", "toad", "viper", "weasel", "wren", "yak", "crane", "dove",
    "eider", "finch", "grebe", "hawk",
];

pub(crate) const FIRST_NAMES: [&str; 48] = [
    "anna", "bram", "carla", "daan", "elif", "femke", "gijs", "hanna", "ivo", "jana", "koen",
    "lotte", "milan", "nora", "otto", "petra", "quinten", "rosa", "sem", "tess", "umut", "vera",
    "wim", "xenia", "yara", "zeno", "aisha", "boris", "cato", "dirk", "esra", "floor", "goran",
    "hugo", "ines", "joost", "kim", "lars", "maud", "niels", "olga", "pim", "romy", "stijn", "tom",
    "ulla", "viktor", "wende",
];

pub(crate) const SURNAMES: [&str; 56] = [
    "jansen",
    "devries",
    "bakker",
    "visser",
    "smit",
    "meijer",
    "mulder",
    "bos",
    "vos",
    "peters",
    "hendriks",
    "dekker",
    "brouwer",
    "dijkstra",
    "smits",
    "koster",
    "prins",
    "blom",
    "huisman",
    "kok",
    "jacobs",
    "vermeer",
    "kuipers",
    "post",
    "veenstra",
    "kramer",
    "scholten",
    "willems",
    "postma",
    "martens",
    "schouten",
    "hoekstra",
    "koning",
    "maas",
    "verhoeven",
    "kuiper",
    "evers",
    "vink",
    "bosman",
    "wolters",
    "sanders",
    "molenaar",
    "groen",
    "timmer",
    "roos",
    "hermans",
    "leeuw",
    "kaya",
    "yilmaz",
    "demir",
    "nowak",
    "silva",
    "costa",
    "moreau",
    "rossi",
    "weber",
];

/// Sites with their zones.
pub(crate) const SITES: [&str; 3] = ["ams", "fra", "dub"];
pub(crate) const ZONES: [&str; 3] = ["a", "b", "c"];

pub(crate) const PURPOSES: [&str; 12] = [
    "shows it to customers in the app",
    "checks it before a payment leaves",
    "reconciles it at the end of the day",
    "reports it to the supervisor",
    "enriches what its own callers ask for",
    "screens it against lists",
    "prices an offer with it",
    "sends a notice when it changes",
    "books the result",
    "lets the service desk look it up",
    "keeps a copy for search",
    "decides on a request of a customer",
];

/// Of a plural in lower case with dashes, the word as operation names hold it.
pub(crate) fn camel(noun: &str) -> String {
    let mut out = String::with_capacity(noun.len());
    for part in noun.split('-') {
        let mut letters = part.chars();
        out.extend(letters.next().map(|first| first.to_ascii_uppercase()));
        out.push_str(letters.as_str());
    }
    out
}

/// `base`, and from the second time on with a number behind it.
pub(crate) fn numbered(base: &str, time: usize) -> String {
    if time == 0 {
        base.to_owned()
    } else {
        format!("{base}-{}", time + 1)
    }
}
