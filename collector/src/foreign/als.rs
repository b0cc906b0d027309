//! Envoy's access-log service, v3: streams of finished requests and connections, without any
//! acknowledgement, become entries that say so.

mod ending;
mod entry;
mod node;
mod seen;
#[cfg(test)]
mod tests;

use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use counterfoil_entry::entry::Entry;
use envoy_types::pb::envoy::data::accesslog::v3::{AccessLogCommon, AccessLogType};
use envoy_types::pb::envoy::service::accesslog::v3::stream_access_logs_message::LogEntries;
use envoy_types::pb::envoy::service::accesslog::v3::{
    StreamAccessLogsMessage, StreamAccessLogsResponse,
};
use http::{Request, Response};
use hyper::body::Incoming;
use prost::Message;
use tokio_util::sync::CancellationToken;

use self::entry::Log;
use self::node::Node;
pub(crate) use self::seen::Seen;
use super::body::{Body, malformed};
use super::counters::Count;
use super::desk::Rows;
use super::door::Answer;
use super::house::House;
use super::trouble::Trouble;
use super::{grpc, wire};

const STREAM: &str = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs";
/// Log entries of one message: decoded they take two kilobytes each, empty ones too.
const ENTRIES_MAX: usize = 8_192;

/// Answers a call of the access-log service: when its stream ends, or `shutdown` comes.
pub(crate) async fn stream(
    house: &Arc<House>,
    request: Request<Incoming>,
    shutdown: &CancellationToken,
) -> Response<Answer> {
    match take_all(house, request, shutdown).await {
        Ok(()) => grpc::answer(&StreamAccessLogsResponse {}),
        Err(trouble) => {
            house.note(&trouble);
            grpc::refusal(&trouble)
        }
    }
}

async fn take_all(
    house: &Arc<House>,
    request: Request<Incoming>,
    shutdown: &CancellationToken,
) -> Result<(), Trouble> {
    let is_gzip = grpc::check(&request)?;
    if request.uri().path() != STREAM {
        let expected = "only StreamAccessLogs of envoy.service.accesslog.v3 is served here";
        return Err(Trouble::Unsupported(expected));
    }
    let mut body = Body::new(request.into_body(), Arc::clone(&house.room));
    let mut node: Option<Arc<Node>> = None;
    loop {
        let message = tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            message = body.message(None) => message?,
        };
        let Some(message) = message else {
            return Ok(());
        };
        let turn = house.turn().await?;
        let entries = read(house, &mut node, message, is_gzip).await?;
        let count = entries.len();
        match house.write(Rows::Entries(entries), turn).await {
            Ok(()) => {}
            // Envoy keeps nothing: what cannot be written is lost, and counted.
            Err(trouble @ (Trouble::SpoolFull | Trouble::Disk)) => {
                house.note(&trouble);
                house.counters.add(Count::EntriesDropped, count);
            }
            Err(trouble) => return Err(trouble),
        }
    }
}

/// The entries of one message; the first one of a stream names the node.
async fn read(
    house: &Arc<House>,
    node: &mut Option<Arc<Node>>,
    message: (bool, Bytes),
    is_gzip: bool,
) -> Result<Vec<Entry>, Trouble> {
    let (of, known) = (Arc::clone(house), node.clone());
    let read = tokio::task::spawn_blocking(move || {
        let message = decode(&grpc::plain(message, is_gzip)?)?;
        let named = message.identifier.and_then(|id| id.node);
        let node = named.map(|node| Arc::new(Node::new(&node))).or(known);
        let node = node.ok_or_else(|| malformed("its first message names no node"))?;
        let entries = message
            .log_entries
            .map(|entries| entries_of(&of, &node, entries));
        Ok((node, entries.unwrap_or_default()))
    });
    let (named, entries) = read.await.map_err(|_| Trouble::Closing)??;
    *node = Some(named);
    Ok(entries)
}

fn decode(bytes: &[u8]) -> Result<StreamAccessLogsMessage, Trouble> {
    let count = |field| wire::messages(bytes, &[field, 1]);
    let counts = count(2).zip(count(3));
    let (http, tcp) = counts.ok_or_else(|| malformed("it is no message of access logs"))?;
    if http.saturating_add(tcp) > ENTRIES_MAX {
        return Err(Trouble::TooLarge("8192 log entries"));
    }
    StreamAccessLogsMessage::decode(bytes).map_err(|_| malformed("it is no message of access logs"))
}

fn entries_of(house: &House, node: &Node, entries: LogEntries) -> Vec<Entry> {
    let mut found = Vec::new();
    let mut take = |common: &AccessLogCommon, log: Log<'_>| match why_not(house, node, common) {
        Some(count) => house.counters.add(count, 1),
        None => match entry::of(house, node, common, log) {
            Some(entry) => found.push(entry),
            None => house.counters.add(Count::EntriesRefused, 1),
        },
    };
    let unknown = AccessLogCommon::default();
    match entries {
        LogEntries::HttpLogs(logs) => {
            for log in &logs.log_entry {
                take(
                    log.common_properties.as_ref().unwrap_or(&unknown),
                    Log::Http(log),
                );
            }
        }
        LogEntries::TcpLogs(logs) => {
            for log in &logs.log_entry {
                take(
                    log.common_properties.as_ref().unwrap_or(&unknown),
                    Log::Tcp(log),
                );
            }
        }
    }
    found
}

/// As what an entry is left out: one of something that still runs, or one that came before.
#[expect(
    deprecated,
    reason = "older Envoys tell by this flag alone that a stream goes on"
)]
fn why_not(house: &House, node: &Node, common: &AccessLogCommon) -> Option<Count> {
    let is_end = matches!(
        AccessLogType::try_from(common.access_log_type),
        Ok(AccessLogType::NotSet
            | AccessLogType::TcpConnectionEnd
            | AccessLogType::DownstreamEnd
            | AccessLogType::UpstreamEnd
            | AccessLogType::UdpSessionEnd)
    );
    if common.intermediate_log_entry || !is_end {
        return Some(Count::EntriesIntermediate);
    }
    let mut seen = house.seen.lock().unwrap_or_else(PoisonError::into_inner);
    (!seen.is_new(&node.id, common)).then_some(Count::EntriesRepeated)
}
