//! What a demo calls: services, their operations, and the traces driven through them.

use std::collections::{BTreeSet, HashMap, HashSet};

use counterfoil_entry::id::TraceId;

use super::{replay::Replay, shop::Shop};

/// Operation under which the driver calls the first service of a trace.
pub(crate) const ENTRY: &str = "entry";
/// Name of the workload that starts the traces.
pub(crate) const DRIVER: &str = "driver";
/// Names of the workloads that the demo has of its own; a recorded service gets another.
const OWN: [&str; 4] = [
    DRIVER,
    "counterfoil-control",
    "counterfoil-collector",
    "counterfoil-query",
];

/// Services, operations and who calls what.
#[derive(Debug, Default)]
pub(crate) struct System {
    /// All services, in order of first sight.
    pub(crate) services: Vec<Service>,
    /// All operations of all services.
    pub(crate) operations: Vec<Operation>,
    /// (caller, index of the operation): the calls that the traces make.
    pub(crate) calls: BTreeSet<(Caller, usize)>,
    by_name: HashMap<String, usize>,
    by_endpoint: HashMap<(usize, String), usize>,
    slugs: HashSet<String>,
    paths: HashSet<(usize, String)>,
}

/// Who makes a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Caller {
    /// The workload that starts the traces.
    Driver,
    /// A service, by its index.
    Service(usize),
}

/// One service of the system.
#[derive(Debug, Clone)]
pub(crate) struct Service {
    /// Name as recorded.
    pub(crate) name: String,
    /// The name as a host name and part of an identity: the same when it is fit for that.
    pub(crate) slug: String,
}

/// One operation of a service.
#[derive(Debug, Clone)]
pub(crate) struct Operation {
    /// Index of the service.
    pub(crate) service: usize,
    /// Name of the operation, letter for letter as recorded.
    pub(crate) endpoint: String,
    /// Protocol of the call.
    pub(crate) protocol: Protocol,
    /// Path that the call goes to, unique in the service.
    pub(crate) path: String,
}

/// How an operation is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// A gRPC unary call over HTTP/2.
    Grpc,
    /// `POST` over HTTP/1.1.
    Http,
}

/// One trace to be driven.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Id that all calls of the trace carry.
    pub(crate) trace_id: TraceId,
    /// All calls; steps refer to them by index.
    pub(crate) calls: Vec<Call>,
    /// What the driver does.
    pub(crate) start: Steps,
}

/// One call of a trace.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    /// Index of the operation.
    pub(crate) operation: usize,
    /// What the called service does.
    pub(crate) steps: Steps,
}

/// Own time of a service between its own calls to others.
#[derive(Debug, Clone, Default)]
pub(crate) struct Steps {
    /// Calls in order of their start.
    pub(crate) calls: Vec<Step>,
    /// Own time after the last call ended.
    pub(crate) tail_ns: u64,
}

/// One call that a service makes, placed among its other calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Step {
    /// Index of the call in the plan.
    pub(crate) call: usize,
    /// Place of this call when all calls of the service are ordered by their end.
    pub(crate) end_rank: usize,
    /// The call waits until this many calls, in order of end, have ended.
    pub(crate) after: usize,
    /// Own time between the last of those ends (or the start of the service) and this call.
    pub(crate) gap_ns: u64,
}

/// Where the traces come from.
#[derive(Debug)]
pub(crate) enum Traces {
    /// Generated from figures.
    Shop(Box<Shop>),
    /// Read from a file of recorded calls.
    Replay(Box<Replay>),
}

impl Traces {
    /// The next trace, or nothing when a recording has no more.
    pub(crate) fn next_plan(&mut self) -> Option<Plan> {
        match self {
            Self::Shop(shop) => shop.next_plan(),
            Self::Replay(replay) => replay.next_plan(),
        }
    }

    /// Recorded traces that were left out because they are too long.
    pub(crate) fn left_out(&self) -> Option<u64> {
        match self {
            Self::Shop(_) => None,
            Self::Replay(replay) => Some(replay.left_out()),
        }
    }
}

impl System {
    /// Index of the service of that name, added when it is new.
    pub(crate) fn service(&mut self, name: &str) -> usize {
        if let Some(index) = self.by_name.get(name) {
            return *index;
        }
        let index = self.services.len();
        let slug = unique(&host_name(name), |slug| {
            let slug = slug.to_ascii_lowercase();
            !OWN.contains(&slug.as_str()) && !self.slugs.contains(&slug)
        });
        self.slugs.insert(slug.to_ascii_lowercase());
        self.services.push(Service {
            name: name.to_owned(),
            slug,
        });
        self.by_name.insert(name.to_owned(), index);
        index
    }

    /// Index of the operation of that service, added when it is new.
    pub(crate) fn operation(&mut self, service: usize, endpoint: &str) -> usize {
        let key = (service, endpoint.to_owned());
        if let Some(index) = self.by_endpoint.get(&key) {
            return *index;
        }
        let index = self.operations.len();
        let grpc =
            grpc_path(endpoint).filter(|path| !self.paths.contains(&(service, path.clone())));
        let (protocol, path) = match grpc {
            Some(path) => (Protocol::Grpc, path),
            None => {
                let free = |path: &str| !self.paths.contains(&(service, path.to_owned()));
                (Protocol::Http, unique(&http_path(endpoint), free))
            }
        };
        self.paths.insert((service, path.clone()));
        self.operations.push(Operation {
            service,
            endpoint: endpoint.to_owned(),
            protocol,
            path,
        });
        self.by_endpoint.insert(key, index);
        index
    }

    /// Name of a caller as a host name and part of an identity.
    pub(crate) fn slug(&self, caller: Caller) -> &str {
        match caller {
            Caller::Driver => DRIVER,
            Caller::Service(index) => self.services.get(index).map_or("", |s| s.slug.as_str()),
        }
    }
}

impl Steps {
    /// Steps from intervals `(call, start, end)` in order of start, inside `[from, until)`; all in nanoseconds of one clock.
    pub(crate) fn from_intervals(intervals: &[(usize, i64, i64)], from: i64, until: i64) -> Self {
        let mut by_end: Vec<(i64, usize)> = intervals
            .iter()
            .enumerate()
            .map(|(at, (_, _, end))| (*end, at))
            .collect();
        by_end.sort_unstable();
        let mut ranks = vec![0; intervals.len()];
        for (rank, (_, at)) in by_end.iter().enumerate() {
            if let Some(slot) = ranks.get_mut(*at) {
                *slot = rank;
            }
        }
        let calls = intervals
            .iter()
            .zip(&ranks)
            .map(|((call, start, _), end_rank)| {
                let after = by_end.partition_point(|(end, _)| end <= start);
                let since = last_end(&by_end, after).unwrap_or(from);
                Step {
                    call: *call,
                    end_rank: *end_rank,
                    after,
                    gap_ns: span_ns(since, *start),
                }
            })
            .collect();
        let since = last_end(&by_end, by_end.len()).unwrap_or(from);
        Self {
            calls,
            tail_ns: span_ns(since, until),
        }
    }
}

fn last_end(by_end: &[(i64, usize)], count: usize) -> Option<i64> {
    by_end.get(count.checked_sub(1)?).map(|(end, _)| *end)
}

fn span_ns(from: i64, until: i64) -> u64 {
    u64::try_from(until.saturating_sub(from)).unwrap_or(0)
}

/// The path of a gRPC method, when the text has the form `package.Service/Method`, with or without a leading slash.
fn grpc_path(endpoint: &str) -> Option<String> {
    let text = endpoint.strip_prefix('/').unwrap_or(endpoint);
    let (service, method) = text.split_once('/')?;
    let word = |text: &str| {
        !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    };
    let starts_well = service.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    let fits = starts_well && service.contains('.') && service.split('.').all(word) && word(method);
    fits.then(|| format!("/{text}"))
}

/// A path made of the letters and digits of the text.
fn http_path(endpoint: &str) -> String {
    let mut path = String::from("/op/");
    for c in endpoint.chars().take(80) {
        if c.is_ascii_alphanumeric() {
            path.push(c.to_ascii_lowercase());
        } else if !path.ends_with(['-', '/']) {
            path.push('-');
        }
    }
    let kept = path.trim_end_matches('-').len();
    path.truncate(kept);
    if path == "/op/" {
        path.push_str("unnamed");
    }
    path
}

/// A host name made of the text; the text itself when it is one.
fn host_name(name: &str) -> String {
    let mapped: String = name
        .chars()
        .take(60)
        .map(|c| {
            if c.is_ascii_alphanumeric() || c == '-' {
                c
            } else {
                '-'
            }
        })
        .collect();
    let trimmed = mapped.trim_matches('-');
    if trimmed.is_empty() {
        "service".to_owned()
    } else {
        trimmed.to_owned()
    }
}

/// The text, or the text with the first number from 2 on that makes it free.
fn unique(text: &str, free: impl Fn(&str) -> bool) -> String {
    if free(text) {
        return text.to_owned();
    }
    let mut number = 2_u32;
    loop {
        let numbered = format!("{text}-{number}");
        if free(&numbered) {
            return numbered;
        }
        number += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_package_service_method_is_called_as_grpc() {
        let cases = [
            (
                "hipstershop.CartService/GetCart",
                Some("/hipstershop.CartService/GetCart"),
            ),
            (
                "/hipstershop.EmailService/Send",
                Some("/hipstershop.EmailService/Send"),
            ),
            (
                "grpc.hipstershop.Currency/Convert",
                Some("/grpc.hipstershop.Currency/Convert"),
            ),
            ("CartService/GetCart", None),
            ("/api/v1/orders", None),
            ("GET /a.b/c", None),
            ("a.b/c/d", None),
            ("a..b/c", None),
            ("1a.b/c", None),
            ("a.b/", None),
            ("", None),
        ];
        for (endpoint, expected) in cases {
            assert_eq!(grpc_path(endpoint).as_deref(), expected, "{endpoint:?}");
        }
    }

    #[test]
    fn texts_that_share_a_path_get_paths_of_their_own() {
        let mut system = System::default();
        let shop = system.service("shop");
        for endpoint in ["a.B/C", "/a.B/C", "GET /x", "GET  /x", "get-x", "", "é"] {
            system.operation(shop, endpoint);
        }
        let paths: BTreeSet<_> = system.operations.iter().map(|o| o.path.as_str()).collect();
        assert_eq!(paths.len(), 7, "{paths:?}");
        assert_eq!(system.operations[1].endpoint, "/a.B/C");
        assert_eq!(system.operations[1].protocol, Protocol::Http);
        assert_eq!(
            system.operation(shop, "GET /x"),
            2,
            "a known text keeps its index"
        );
    }

    fn slugs(system: &System) -> Vec<&str> {
        system.services.iter().map(|s| s.slug.as_str()).collect()
    }

    #[test]
    fn services_whose_names_are_no_host_names_are_told_apart() {
        let mut system = System::default();
        for name in ["ts-order-service", "a b", "a/b", "A-B"] {
            system.service(name);
        }
        assert_eq!(
            slugs(&system),
            ["ts-order-service", "a-b", "a-b-2", "A-B-3"]
        );
    }

    #[test]
    fn a_service_named_like_one_of_the_demo_itself_is_told_apart_from_it() {
        let mut system = System::default();
        for name in [
            "driver",
            "Driver",
            "counterfoil-query",
            "Counterfoil_Collector",
        ] {
            system.service(name);
        }
        let expected = [
            "driver-2",
            "Driver-3",
            "counterfoil-query-2",
            "Counterfoil-Collector-2",
        ];
        assert_eq!(slugs(&system), expected);
        assert_eq!(
            system.services[1].name, "Driver",
            "its own name stands in the books"
        );
    }

    #[test]
    fn a_call_waits_for_those_that_had_ended_before_it_began() {
        // Two calls side by side, a third one 5 after the first ended, a fourth after all.
        let steps = Steps::from_intervals(
            &[
                (10, 100, 200),
                (11, 110, 400),
                (12, 205, 300),
                (13, 430, 440),
            ],
            90,
            500,
        );
        let expected = [
            Step {
                call: 10,
                end_rank: 0,
                after: 0,
                gap_ns: 10,
            },
            Step {
                call: 11,
                end_rank: 2,
                after: 0,
                gap_ns: 20,
            },
            Step {
                call: 12,
                end_rank: 1,
                after: 1,
                gap_ns: 5,
            },
            Step {
                call: 13,
                end_rank: 3,
                after: 3,
                gap_ns: 30,
            },
        ];
        assert_eq!(steps.calls, expected);
        assert_eq!(steps.tail_ns, 60);
    }

    #[test]
    fn clocks_that_disagree_never_make_negative_time() {
        let steps = Steps::from_intervals(&[(0, 50, 900)], 100, 500);
        assert_eq!((steps.calls[0].gap_ns, steps.tail_ns), (0, 0));
    }
}
