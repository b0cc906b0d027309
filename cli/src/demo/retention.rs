//! A legal hold in the demo, and what it keeps from leaving the books one day.

use std::path::Path;

use anyhow::Context as _;
use counterfoil_entry::{Time, clock};
use counterfoil_ledger::manifest::Predicate;
use counterfoil_retention::{Delivered, HoldRequest, Office, Outlook, Person, RetentionConfig};

use crate::{
    console::{Console, chain},
    site::Site,
};

/// Who keeps records: the first of her team.
const LEA: &str = "lea";
/// The case, and the service that it is about.
const MATTER: &str = "DEMO-1";
const SERVICE: &str = "paymentservice";
/// When everything of the demo would be due by the classes that it begins with.
const YEARS: i64 = 10;
const YEAR_NS: i64 = 366 * 86_400 * 1_000_000_000;

/// Places the hold while the roles run, so that its rows are in the books at the end.
pub(super) async fn hold(site: &Site, console: &Console) {
    match place(site).await {
        Ok(id) => console.say(format_args!(
            "  {LEA} places a legal hold on what {SERVICE} did, for the matter {MATTER}: {id}"
        )),
        Err(error) => console.say(format_args!(
            "  the legal hold could not be placed: {}",
            chain(&error)
        )),
    }
}

async fn place(site: &Site) -> anyhow::Result<String> {
    let mut office = open(site.root())?;
    let lea = Person {
        name: LEA.to_owned(),
        teams: vec!["records".to_owned()],
    };
    let request = HoldRequest {
        matter: MATTER.to_owned(),
        reason: "shows that a hold stops a deletion".to_owned(),
        predicate: Predicate {
            service: Some(SERVICE.to_owned()),
            operation: None,
            trace_id: None,
            from: None,
            until: None,
        },
    };
    let id = office.hold(&lea, &request, clock::wall())?;
    match office.deliver().await {
        Delivered::Done => Ok(id),
        Delivered::Kept(why) => Err(anyhow::anyhow!("{why}")).context("bringing it into the books"),
    }
}

fn open(site_root: &Path) -> anyhow::Result<Office> {
    let file = site_root.join("config").join("retention.toml");
    let config = RetentionConfig::load(&file)?;
    Ok(Office::open(config)?)
}

/// What would be due in ten years, and what only the hold would keep then.
///
/// # Errors
/// When classes or books cannot be read.
pub(super) fn outlook(site_root: &Path) -> anyhow::Result<(Time, Outlook)> {
    let office = open(site_root)?;
    let at = clock::wall().plus_ns(YEARS * YEAR_NS);
    Ok((at, office.simulate(at, |_, _| {})?))
}

/// The outlook in one line.
pub(super) fn told(at: Time, outlook: &Outlook) -> String {
    let due: u64 = outlook.due.iter().map(|due| due.sealed.of.count).sum();
    let held: u64 = outlook
        .held
        .iter()
        .map(|held| held.due.sealed.of.count)
        .sum();
    format!(
        "on {} {} of {} segments with {due} rows may go; the hold {MATTER} keeps {} with {held} rows",
        at.date(),
        outlook.due.len(),
        outlook.segments,
        outlook.held.len(),
    )
}
