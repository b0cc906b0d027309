//! Teams with their people, applications with their APIs, and the workloads that serve these.

use std::collections::BTreeMap;

use crate::dice::Dice;
use crate::names::{DOMAINS, Domain, FIRST_NAMES, KINDS, SITES, SURNAMES, TEAMS, ZONES, numbered};
use crate::{Api, Criticality, Estate, Size, Team, Workload, operations};

/// People of a team.
const PEOPLE: usize = 3;
/// Of so many workloads one serves nothing and only calls others.
const WORKER_EVERY: usize = 5;
/// Of so many applications one belongs to the platform: 33 of 2,200.
const PLATFORM_EVERY: usize = 66;
const OPERATIONS_MEAN: usize = 6;
const OPERATIONS_MAX: usize = 40;

/// Everything but the grants.
pub(crate) fn generate(size: &Size, dice: &mut Dice, trust_domain: &str) -> Estate {
    let applications = size.applications.max(1);
    let platform = (applications / PLATFORM_EVERY).max(1);
    let teams = teams(size.teams.max(1), platform, trust_domain);
    let mut apis = apis(applications, platform, &teams, dice);
    let workloads = workloads(size.workloads.max(1), &mut apis, trust_domain, dice);
    Estate {
        trust_domain: trust_domain.to_owned(),
        teams,
        apis,
        workloads,
        grants: Vec::new(),
    }
}

/// Domain of the k-th of things of which the first `platform` belong to the platform.
fn domain_of(k: usize, platform: usize, domains: usize) -> &'static Domain {
    let rest = domains.saturating_sub(1).max(1);
    let index = match k.checked_sub(platform) {
        Some(k) if domains > 1 => 1 + k % rest,
        _ => 0,
    };
    let [first, ..] = &DOMAINS;
    DOMAINS.get(index).unwrap_or(first)
}

fn teams(count: usize, platform: usize, trust_domain: &str) -> Vec<Team> {
    // Two applications of the platform have one team.
    let platform = (platform / 2).clamp(1, count);
    let domains = DOMAINS.len().min(1 + count - platform);
    let mut person = 0;
    let team = |k: usize| {
        let domain = domain_of(k, platform, domains);
        // How many teams of this domain came before.
        let before = match k.checked_sub(platform) {
            Some(k) if domains > 1 => k / (domains - 1),
            _ => k,
        };
        let animal = TEAMS.get(before % TEAMS.len()).copied().unwrap_or("team");
        let mut people = || {
            let name = person_name(person, trust_domain);
            person += 1;
            name
        };
        Team {
            name: numbered(&format!("{}-{animal}", domain.name), before / TEAMS.len()),
            domain: domain.name,
            people: (0..PEOPLE).map(|_| people()).collect(),
        }
    };
    (0..count).map(team).collect()
}

fn person_name(number: usize, trust_domain: &str) -> String {
    let pairs = FIRST_NAMES.len() * SURNAMES.len();
    let first = FIRST_NAMES.get(number % FIRST_NAMES.len()).copied();
    // One further at each round, so that people of one team have different surnames.
    let last =
        SURNAMES.get((number / FIRST_NAMES.len() + number % FIRST_NAMES.len()) % SURNAMES.len());
    let name = format!("{}.{}", first.unwrap_or("ada"), last.unwrap_or(&"lovelace"));
    format!("{}@{trust_domain}", numbered(&name, number / pairs))
}

fn apis(count: usize, platform: usize, teams: &[Team], dice: &mut Dice) -> Vec<Api> {
    let mut by_domain: Vec<(&Domain, Vec<&Team>, usize)> = DOMAINS
        .iter()
        .map(|domain| {
            let of = teams.iter().filter(|team| team.domain == domain.name);
            (domain, of.collect::<Vec<_>>(), 0)
        })
        .filter(|(_, teams, _)| !teams.is_empty())
        .collect();
    let domains = by_domain.len();
    let mut apis = Vec::with_capacity(count);
    for k in 0..count {
        let name = domain_of(k, platform, domains).name;
        let Some((domain, teams, before)) = by_domain.iter_mut().find(|(d, ..)| d.name == name)
        else {
            continue;
        };
        apis.extend(api(domain, teams, *before, dice));
        *before += 1;
    }
    apis
}

/// The API of the application before which the domain has `before` others.
fn api(domain: &Domain, teams: &[&Team], before: usize, dice: &mut Dice) -> Option<Api> {
    // Each team gets one; of the rest some teams get many.
    let team = match teams.get(before) {
        Some(team) => team,
        None => teams.get(dice.below(teams.len()).min(dice.below(teams.len())))?,
    };
    let nouns = domain.nouns.len();
    let noun = domain.nouns.get(before % nouns)?;
    let kind = KINDS.get(before / nouns % KINDS.len())?;
    let base = format!("{}-{noun}-{kind}", domain.name);
    let name = numbered(&base, before / nouns / KINDS.len());
    let [platform, ..] = &DOMAINS;
    let criticality = if domain.name == platform.name {
        Criticality::Platform
    } else {
        match dice.below(20) {
            0 | 1 => Criticality::Critical,
            2..=6 => Criticality::Important,
            _ => Criticality::Standard,
        }
    };
    let regulated = criticality > Criticality::Standard || dice.happens(1, 2);
    let scopes = if regulated { domain.scopes } else { &[] }.to_vec();
    let count = dice.skewed(OPERATIONS_MEAN, OPERATIONS_MAX);
    Some(Api {
        version: format!("{}.{}.0", 1 + dice.below(4), dice.below(20)),
        team: team.name.clone(),
        // Whoever serves it says so.
        server: String::new(),
        criticality,
        class: class(&scopes),
        scopes,
        operations: operations::generate(&name, domain, before, count),
        name,
    })
}

fn class(scopes: &[&str]) -> &'static str {
    if scopes.contains(&"sox") {
        "sox_7y"
    } else if scopes.contains(&"pci") {
        "pci_1y"
    } else if scopes.contains(&"pii") {
        "ops_13m"
    } else {
        "ops_90d"
    }
}

/// The workloads; each API gets one that serves it, of its own domain where there is one.
fn workloads(count: usize, apis: &mut [Api], trust_domain: &str, dice: &mut Dice) -> Vec<Workload> {
    let workers = count / WORKER_EVERY;
    let servers = (count - workers).min(apis.len());
    let mut workloads = Vec::with_capacity(count);
    for api in apis.iter().take(servers) {
        workloads.push(workload(
            &api.name,
            api,
            workloads.len(),
            trust_domain,
            dice,
        ));
    }
    for k in 0..count - servers {
        let Some(api) = apis.get(k % apis.len()) else {
            continue;
        };
        let name = numbered(&format!("{}-worker", api.name), k / apis.len());
        workloads.push(workload(&name, api, workloads.len(), trust_domain, dice));
    }
    let mut hosts = BTreeMap::<&str, Vec<&Workload>>::new();
    for host in workloads.iter().take(servers) {
        hosts.entry(first_word(&host.app)).or_default().push(host);
    }
    for (k, api) in apis.iter_mut().enumerate() {
        let own = workloads.get(k).filter(|_| k < servers);
        let server = own.or_else(|| {
            let same = hosts.get(first_word(&api.name));
            same.and_then(|same| dice.one(same).copied())
                .or_else(|| workloads.get(servers - 1))
        });
        if let Some(server) = server {
            api.server.clone_from(&server.spiffe_id);
        }
    }
    workloads
}

/// The domain of an application's name.
fn first_word(name: &str) -> &str {
    name.split('-').next().unwrap_or(name)
}

fn workload(name: &str, api: &Api, number: usize, trust_domain: &str, dice: &mut Dice) -> Workload {
    let site = dice.below(SITES.len());
    Workload {
        spiffe_id: format!("spiffe://{trust_domain}/workload/{name}"),
        name: name.to_owned(),
        app: api.name.clone(),
        team: api.team.clone(),
        criticality: api.criticality,
        site: SITES.get(site).copied().unwrap_or("ams"),
        zone: dice.one(&ZONES).copied().unwrap_or("a"),
        address: format!(
            "10.{}.{}.{}:15006",
            site + 1 + 3 * (number >> 16),
            (number >> 8) & 255,
            number & 255
        ),
    }
}
