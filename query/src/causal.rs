//! `causal_order`: the hops of one trace in the order in which one brought about the next.
//!
//! A window function, for it looks at all hops of a trace at once. Spans that belong to no hop (of an
//! application, say) can be given as rows with that span alone: they link what is below them to what
//! is above. Whatever the spans say, each hop gets exactly one place, and the work grows with n log n.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, Int64Array, StringArray, StructArray};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Fields, Int64Type};
use datafusion::common::{DataFusionError, Result};
use datafusion::logical_expr::function::{PartitionEvaluatorArgs, WindowUDFFieldArgs};
use datafusion::logical_expr::{
    PartitionEvaluator, Signature, Volatility, WindowUDF, WindowUDFImpl,
};

const NAME: &str = "causal_order";

/// `causal_order(client_span, server_span, parent_span, start, caller, callee) OVER (..)`: a struct of
/// `place` (from 1, each caller before what it called), `depth` (0 without a caller), `parent_place`
/// and `link`.
#[must_use]
pub(crate) fn function() -> WindowUDF {
    let text = DataType::Utf8;
    let types = [&text, &text, &text, &DataType::Int64, &text, &text];
    WindowUDF::new_from_impl(CausalOrder {
        signature: Signature::exact(types.map(Clone::clone).to_vec(), Volatility::Immutable),
    })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct CausalOrder {
    signature: Signature,
}

fn fields() -> Fields {
    let number = |name| Field::new(name, DataType::Int64, true);
    let link = Field::new("link", DataType::Utf8, false);
    vec![
        number("place"),
        number("depth"),
        number("parent_place"),
        link,
    ]
    .into()
}

impl WindowUDFImpl for CausalOrder {
    fn name(&self) -> &str {
        NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn partition_evaluator(
        &self,
        _args: PartitionEvaluatorArgs<'_>,
    ) -> Result<Box<dyn PartitionEvaluator>> {
        Ok(Box::new(WholeTrace))
    }

    fn field(&self, args: WindowUDFFieldArgs<'_>) -> Result<FieldRef> {
        let data_type = DataType::Struct(fields());
        Ok(Arc::new(Field::new(args.name(), data_type, false)))
    }
}

#[derive(Debug)]
struct WholeTrace;

impl PartitionEvaluator for WholeTrace {
    fn evaluate_all(&mut self, values: &[ArrayRef], rows: usize) -> Result<ArrayRef> {
        let [client, server, parent, start, caller, callee] = values else {
            let why = format!("{NAME} takes six arguments");
            return Err(DataFusionError::Plan(why));
        };
        let text = |array: &ArrayRef, row: usize| {
            let array = array.as_string::<i32>();
            array.is_valid(row).then(|| array.value(row).to_owned())
        };
        let start = start.as_primitive::<Int64Type>();
        let hops: Vec<Hop> = (0..rows)
            .map(|row| Hop {
                client_span: text(client, row),
                server_span: text(server, row),
                parent_span: text(parent, row),
                start: start.is_valid(row).then(|| start.value(row)),
                caller: text(caller, row),
                callee: text(callee, row),
            })
            .collect();
        let placed = order(&hops);
        let number = |of: fn(&Placed) -> Option<i64>| -> ArrayRef {
            Arc::new(placed.iter().map(of).collect::<Int64Array>())
        };
        let link = placed.iter().map(|one| Some(one.link.as_str()));
        let columns = vec![
            number(|one| Some(one.place)),
            number(|one| Some(one.depth)),
            number(|one| one.parent_place),
            Arc::new(link.collect::<StringArray>()),
        ];
        Ok(Arc::new(StructArray::try_new(fields(), columns, None)?))
    }
}

/// What the order is made of.
#[derive(Debug, Clone, Default)]
struct Hop {
    client_span: Option<String>,
    server_span: Option<String>,
    parent_span: Option<String>,
    start: Option<i64>,
    caller: Option<String>,
    callee: Option<String>,
}

/// Why a hop stands where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    /// It names no parent.
    Root,
    /// Its parent is a hop of this trace.
    Called,
    /// Its parent is nowhere, as must be where an application outside the mesh began the trace.
    Outside,
    /// Its parent is nowhere.
    ParentUnknown,
    /// Its parents lead back to itself.
    Cycle,
}

impl Link {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Called => "called",
            Self::Outside => "outside",
            Self::ParentUnknown => "parent_unknown",
            Self::Cycle => "cycle",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Placed {
    place: i64,
    depth: i64,
    parent_place: Option<i64>,
    link: Link,
}

/// The place of each hop, in the order of `hops`.
fn order(hops: &[Hop]) -> Vec<Placed> {
    // The earliest first; the spans decide between hops of one instant, so that the order is the same
    // whenever it is asked for.
    let mut by_start: Vec<usize> = (0..hops.len()).collect();
    by_start.sort_by_key(|at| {
        hops.get(*at)
            .map(|hop| (hop.start, &hop.client_span, &hop.server_span))
    });
    let links = Links::of(hops, &by_start);
    let mut placed: Vec<Option<Placed>> = vec![None; hops.len()];
    let mut count = 0_i64;
    let (heads, rest): (Vec<usize>, Vec<usize>) = by_start
        .into_iter()
        .partition(|at| links.link(*at) != Link::Called);
    // What is left once everything below the heads has its place goes round in circles.
    for (head, is_cycle) in heads
        .into_iter()
        .map(|at| (at, false))
        .chain(rest.into_iter().map(|at| (at, true)))
    {
        let mut stack = vec![(head, 0_i64, None)];
        while let Some((at, depth, parent_place)) = stack.pop() {
            let Some(slot) = placed.get_mut(at).filter(|slot| slot.is_none()) else {
                continue;
            };
            count += 1;
            let link = match (depth, is_cycle) {
                (0, true) => Link::Cycle,
                _ => links.link(at),
            };
            *slot = Some(Placed {
                place: count,
                depth,
                parent_place,
                link,
            });
            let below = links.children.get(at).into_iter().flatten().rev();
            stack.extend(below.map(|child| (*child, depth + 1, Some(count))));
        }
    }
    let nowhere = Placed {
        place: 0,
        depth: 0,
        parent_place: None,
        link: Link::Cycle,
    };
    placed
        .into_iter()
        .map(|one| one.unwrap_or(nowhere))
        .collect()
}

/// Who called whom.
struct Links {
    links: Vec<Link>,
    /// Of each hop, the earliest first.
    children: Vec<Vec<usize>>,
}

impl Links {
    fn of(hops: &[Hop], by_start: &[usize]) -> Self {
        let in_order = || {
            by_start
                .iter()
                .filter_map(|at| hops.get(*at).map(|hop| (*at, hop)))
        };
        let mut by_span: HashMap<&str, usize> = HashMap::new();
        // What the callee's proxy passed on is what its application names. Of spans that are there
        // twice the earliest counts.
        for (at, hop) in in_order() {
            if let Some(span) = &hop.server_span {
                by_span.entry(span).or_insert(at);
            }
        }
        for (at, hop) in in_order() {
            if let Some(span) = &hop.client_span {
                by_span.entry(span).or_insert(at);
            }
        }
        let called: HashSet<&str> = hops
            .iter()
            .filter_map(|hop| hop.callee.as_deref())
            .collect();
        let first = in_order().next().and_then(|(_, hop)| hop.caller.as_deref());
        let begins_outside = |hop: &Hop| match hop.caller.as_deref() {
            caller @ Some(name) => caller == first && !called.contains(name),
            None => false,
        };
        let mut links = vec![Link::Root; hops.len()];
        let mut children = vec![Vec::new(); hops.len()];
        for (at, hop) in in_order() {
            let Some(span) = hop.parent_span.as_deref() else {
                continue;
            };
            let link = match by_span.get(span) {
                Some(parent) if *parent == at => Link::Cycle,
                Some(parent) => {
                    if let Some(children) = children.get_mut(*parent) {
                        children.push(at);
                    }
                    Link::Called
                }
                None if begins_outside(hop) => Link::Outside,
                None => Link::ParentUnknown,
            };
            if let Some(slot) = links.get_mut(at) {
                *slot = link;
            }
        }
        Self { links, children }
    }

    fn link(&self, at: usize) -> Link {
        self.links.get(at).copied().unwrap_or(Link::Root)
    }
}

#[cfg(test)]
mod tests;
