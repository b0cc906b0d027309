//! The real collector in this process, and what stands in its journal.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use counterfoil_collector::CollectorConfig;
use counterfoil_columns::DataDirectory;
use counterfoil_columns::journal::{self, Frames, JournalFrame};
use counterfoil_conform::{Receiver, Stored, World};
use counterfoil_entry::frame;
use counterfoil_entry::record::RecordView;
use counterfoil_entry::table::TableId;
use counterfoil_trust::{ClientAuth, SpiffeId, server_config};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

/// Counts the rows of a writer.
pub(crate) type Count = Arc<dyn Fn(&str) -> Result<u64, String> + Send + Sync>;

/// Starts the world's collector, which ends with the runtime, and gives what counts its rows.
pub(crate) fn start(world: &mut World) -> Count {
    let (node, address, data) = world.collector();
    let config = CollectorConfig::load(&node.config).unwrap();
    let (origin, data) = (config.origin.clone(), data.to_owned());
    tokio::spawn(counterfoil_collector::run(config, CancellationToken::new()));
    let count: Count = Arc::new(move |writer| Ok(rows_of(&data, &origin, writer)));
    world.watch(Receiver {
        address: address.to_string(),
        spiffe_id: Some(SpiffeId::parse(World::collector_id()).unwrap()),
        stored: Stored::Counted(Arc::clone(&count)),
    });
    count
}

/// The findings of `writer` in the collector's journal, which holds what no segment holds yet.
fn rows_of(data: &Path, origin: &str, writer: &str) -> u64 {
    let folder = DataDirectory::open(data).unwrap().journal(origin);
    let mut count = 0;
    for number in journal::files(&folder).unwrap() {
        let bytes = journal::read(&journal::file_path(&folder, number)).unwrap();
        for located in Frames::new(&bytes) {
            if let JournalFrame::Batch { records, .. } = located.unwrap().frame {
                let own = |record: &&[u8]| {
                    let view = RecordView::parse(record).unwrap();
                    let is_finding = view.table == TableId::ConformanceResults.number();
                    is_finding && view.header().unwrap().writer.as_str() == writer
                };
                count += records.iter().map(|(_, record)| record).filter(own).count() as u64;
            }
        }
    }
    count
}

/// Starts a collector that takes everything as often as it is sent, and counts it so.
pub(crate) async fn start_forgetful(world: &mut World) {
    let [part, _] = world.parts().unwrap();
    let tls = TlsAcceptor::from(server_config(
        &part.identity,
        ClientAuth::Required,
        &[b"http/1.1"],
    ));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stored = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&stored);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(stream) = tls.accept(stream).await else {
                continue;
            };
            let count = Arc::clone(&count);
            let service = service_fn(move |request: Request<Incoming>| {
                let count = Arc::clone(&count);
                async move {
                    let is_batch = request.uri().path() == "/v1/batch";
                    let body = request.into_body().collect().await.unwrap().to_bytes();
                    if is_batch {
                        count.fetch_add(frame::records(&body).count() as u64, Ordering::Relaxed);
                    }
                    Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"{}"))))
                }
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    world.watch(Receiver {
        address: address.to_string(),
        spiffe_id: None,
        stored: Stored::Counted(Arc::new(move |_writer| Ok(stored.load(Ordering::Relaxed)))),
    });
}
