//! Who calls whom, by which grant: much of it goes to the platform, most of the rest stays in the domain.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::dice::{Dice, Ranks};
use crate::names::PURPOSES;
use crate::{Api, Criticality, Estate, Grant, Size, Team, Workload};

const DEPENDENCIES_MAX: usize = 40;
const OPERATIONS_MEAN: usize = 3;
/// Of so many grants one is on everything that the API has.
const WHOLE_EVERY: usize = 12;
/// A choice that cannot be taken is drawn anew this often.
const TRIES: usize = 20;
/// A grant is for a year at the most.
const LIFE_DAYS: usize = 365;
const FIRST_TICKET: usize = 104_000;

/// One grant for each dependency of each workload.
pub(crate) fn generate(size: &Size, estate: &Estate, dice: &mut Dice) -> Vec<Grant> {
    let market = Market::new(estate, dice);
    let teams: HashMap<&str, &Team> = estate.teams.iter().map(|t| (t.name.as_str(), t)).collect();
    let mut grants = Vec::new();
    for consumer in &estate.workloads {
        let wanted = dice.skewed(size.dependencies.max(1), DEPENDENCIES_MAX);
        let mut taken = HashSet::new();
        for _ in 0..wanted {
            let drawn = (0..TRIES).find_map(|_| {
                market
                    .draw(consumer, dice)
                    .filter(|api| api.server != consumer.spiffe_id)
                    .filter(|api| !taken.contains(api.name.as_str()))
            });
            let Some(api) = drawn else { break };
            taken.insert(api.name.as_str());
            let people = (
                teams.get(consumer.team.as_str()),
                teams.get(api.team.as_str()),
            );
            if let (Some(asking), Some(owning)) = people {
                let number = grants.len();
                grants.extend(grant(consumer, api, (asking, owning), number, dice));
            }
        }
    }
    grants
}

/// The APIs by what makes them wanted.
struct Market<'a> {
    platform: Vec<&'a Api>,
    platform_ranks: Ranks,
    /// In an order of chance, by which the first are wanted by many.
    all: Vec<&'a Api>,
    all_ranks: Ranks,
    by_domain: BTreeMap<&'a str, Vec<&'a Api>>,
}

impl<'a> Market<'a> {
    fn new(estate: &'a Estate, dice: &mut Dice) -> Self {
        let of_platform = |api: &&Api| api.criticality == Criticality::Platform;
        let platform: Vec<&Api> = estate.apis.iter().filter(of_platform).collect();
        let mut all: Vec<&Api> = estate.apis.iter().filter(|api| !of_platform(api)).collect();
        for last in (1..all.len()).rev() {
            all.swap(last, dice.below(last + 1));
        }
        let mut by_domain = BTreeMap::<&str, Vec<&Api>>::new();
        for api in &all {
            by_domain.entry(domain(&api.name)).or_default().push(api);
        }
        Self {
            platform_ranks: Ranks::new(platform.len()),
            platform,
            all_ranks: Ranks::new(all.len()),
            all,
            by_domain,
        }
    }

    fn draw(&self, consumer: &Workload, dice: &mut Dice) -> Option<&'a Api> {
        match dice.below(20) {
            0..=6 => self.platform.get(self.platform_ranks.draw(dice)).copied(),
            7..=15 => dice
                .one(self.by_domain.get(domain(&consumer.app))?)
                .copied(),
            _ => self.all.get(self.all_ranks.draw(dice)).copied(),
        }
    }
}

fn domain(name: &str) -> &str {
    name.split('-').next().unwrap_or(name)
}

fn grant(
    consumer: &Workload,
    api: &Api,
    (asking, owning): (&Team, &Team),
    number: usize,
    dice: &mut Dice,
) -> Option<Grant> {
    let requested_by = dice.one(&asking.people)?.clone();
    let others: Vec<_> = owning
        .people
        .iter()
        .filter(|p| **p != requested_by)
        .collect();
    let approved_by = (*dice.one(&others)?).clone();
    let age_days = dice.below(LIFE_DAYS - 30);
    Some(Grant {
        consumer: consumer.spiffe_id.clone(),
        api: api.name.clone(),
        operations: operations(api, dice),
        purpose: dice.one(&PURPOSES)?,
        ticket: format!("CHG-{}", FIRST_TICKET + number),
        requested_by,
        approved_by,
        age_days: u16::try_from(age_days).ok()?,
        left_days: u16::try_from(LIFE_DAYS - age_days).ok()?,
    })
}

/// Some of the operations that need a grant, in the API's order.
fn operations(api: &Api, dice: &mut Dice) -> Vec<String> {
    let closed: Vec<_> = api
        .operations
        .iter()
        .filter(|operation| !operation.open)
        .collect();
    if dice.happens(1, WHOLE_EVERY) {
        return vec!["*".to_owned()];
    }
    let mut wanted = dice.skewed(OPERATIONS_MEAN, closed.len().max(1));
    let mut left = closed.len();
    let mut taken = Vec::with_capacity(wanted);
    for operation in closed {
        if dice.happens(wanted, left) {
            taken.push(operation.name.clone());
            wanted -= 1;
        }
        left -= 1;
    }
    taken
}
