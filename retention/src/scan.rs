//! Reading a segment's rows, where a manifest alone does not tell what holds and scopes are about.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::Path;

use counterfoil_columns::segment::read_rows;
use counterfoil_entry::entry::Entry;
use counterfoil_entry::rows::LegalHoldRow;
use counterfoil_entry::table::TableId;

use crate::error::RetainError;
use crate::holds::predicate;
use crate::survey::Sealed;

/// What the rows of a segment say.
#[derive(Debug, Default)]
pub(crate) struct Scanned {
    /// Scopes of its rows.
    pub(crate) scopes: BTreeSet<String>,
    /// Holds that bind a row.
    pub(crate) holds: BTreeSet<String>,
}

/// Reads what is needed to know which of `holds` bind the segment, and its scopes when `with_scopes`.
///
/// A hold that asks for more than times is looked for in rows of `entries`; in any other table it binds every
/// segment of its time range, for their rows do not say which service they are about.
///
/// # Errors
/// When the segment cannot be read.
pub(crate) fn scan<'a>(
    books: &Path,
    sealed: &Sealed,
    holds: impl Iterator<Item = &'a LegalHoldRow>,
    with_scopes: bool,
) -> Result<Scanned, RetainError> {
    let of = &sealed.of;
    let mut scanned = Scanned::default();
    let mut open = Vec::new();
    for hold in holds {
        let asks = predicate(hold);
        if !asks.overlaps(of.first_time, of.last_time) {
            continue;
        }
        if of.table != TableId::Entries || asks.is_of_times() {
            scanned.holds.insert(hold.hold_id.clone());
        } else {
            open.push(hold);
        }
    }
    let is_read = of.table == TableId::Entries && (with_scopes || !open.is_empty());
    if is_read {
        read(&books.join(&of.file), &open, with_scopes, &mut scanned)?;
    }
    Ok(scanned)
}

fn read(
    path: &Path,
    holds: &[&LegalHoldRow],
    with_scopes: bool,
    scanned: &mut Scanned,
) -> Result<(), RetainError> {
    let mut failed = None;
    read_rows(path, TableId::Entries, |_, record, _| {
        let entry = match Entry::decode(record) {
            Ok((_, entry)) => entry,
            Err(source) => {
                failed = Some(source);
                return ControlFlow::Break(());
            }
        };
        for hold in holds {
            if !scanned.holds.contains(&hold.hold_id) && binds(hold, &entry) {
                scanned.holds.insert(hold.hold_id.clone());
            }
        }
        if with_scopes {
            for scope in entry.scopes.iter() {
                if !scanned.scopes.contains(&**scope) {
                    scanned.scopes.insert((**scope).to_owned());
                }
            }
        }
        ControlFlow::Continue(())
    })?;
    failed.map_or(Ok(()), |source| {
        Err(RetainError::Row {
            path: path.to_owned(),
            source,
        })
    })
}

/// Whether all that the hold asks for is so of the entry.
fn binds(hold: &LegalHoldRow, entry: &Entry) -> bool {
    let is_service = |name: &str| {
        let sides = [
            (entry.source_app.as_deref(), entry.source.as_deref()),
            (
                entry.destination_app.as_deref(),
                entry.destination.as_deref(),
            ),
        ];
        sides.iter().any(|(app, id)| {
            let last = id.and_then(|id| id.rsplit('/').next());
            *app == Some(name) || last == Some(name) || *id == Some(name)
        })
    };
    hold.service.as_deref().is_none_or(is_service)
        && hold
            .operation
            .as_deref()
            .is_none_or(|name| entry.operation.as_deref() == Some(name))
        && hold
            .trace_id
            .is_none_or(|id| entry.trace_id.as_ref() == Some(&id))
        && hold.from_time.is_none_or(|from| from <= entry.start_time)
        && hold.until_time.is_none_or(|until| entry.start_time < until)
}

#[cfg(test)]
mod tests {
    use counterfoil_entry::Time;
    use counterfoil_entry::word::{Kind, Side};
    use counterfoil_ledger::manifest::Predicate;

    use super::*;
    use crate::holds::{HoldRequest, placed};

    fn hold(predicate: Predicate) -> LegalHoldRow {
        let request = HoldRequest {
            matter: "m".to_owned(),
            reason: "r".to_owned(),
            predicate,
        };
        placed(&request, "h".to_owned(), "lea", Time::from_ns(0))
    }

    #[test]
    fn a_hold_binds_rows_for_which_all_that_it_asks_is_so() {
        let mut entry = Entry::new(Side::Server, Kind::Http, Time::from_ns(50));
        entry.source = Some("spiffe://bank.test/workload/shop".into());
        entry.destination_app = Some("payments".into());
        entry.operation = Some("createPayment".into());
        let text = |text: &str| Some(text.to_owned());
        let all = Predicate {
            service: text("payments"),
            operation: text("createPayment"),
            trace_id: None,
            from: Some(Time::from_ns(50)),
            until: Some(Time::from_ns(51)),
        };
        let cases = [
            (Predicate::default(), true),
            (all.clone(), true),
            (
                Predicate {
                    service: text("shop"),
                    ..all.clone()
                },
                true,
            ),
            (
                Predicate {
                    service: text("pay"),
                    ..all.clone()
                },
                false,
            ),
            (
                Predicate {
                    operation: text("getPayment"),
                    ..all.clone()
                },
                false,
            ),
            (
                Predicate {
                    from: Some(Time::from_ns(51)),
                    ..all.clone()
                },
                false,
            ),
            (
                Predicate {
                    until: Some(Time::from_ns(50)),
                    ..all.clone()
                },
                false,
            ),
            (
                Predicate {
                    trace_id: "0af7651916cd43dd8448eb211c80319c".parse().ok(),
                    ..all
                },
                false,
            ),
        ];
        for (predicate, expected) in cases {
            assert_eq!(
                binds(&hold(predicate.clone()), &entry),
                expected,
                "{predicate:?}"
            );
        }
    }
}
