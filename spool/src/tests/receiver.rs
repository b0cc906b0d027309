//! A collector of the least size: it keeps what it is sent and checks it by the definitions.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use bytes::Bytes;
use counterfoil_entry::clock;
use counterfoil_entry::frame::records;
use counterfoil_entry::record::RecordView;
use counterfoil_entry::statement::{Signed, Statement, StatementKind, StreamRange};
use counterfoil_trust::{ClientAuth, TrustRoots, peer_of, server_config, verify_announcement};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;

use super::world::{Authority, COLLECTOR};
use crate::lock;

/// Seq and bytes of a stream's records.
pub(super) type Records = BTreeMap<u64, Vec<u8>>;

#[derive(Debug, Default)]
pub(super) struct Epoch {
    pub(super) key: Option<[u8; 32]>,
    pub(super) streams: BTreeMap<String, Records>,
    pub(super) statements: BTreeMap<u64, (Statement, [u8; 32])>,
    pub(super) is_closed: bool,
}

/// What arrived.
#[derive(Debug, Default)]
pub(super) struct Books {
    pub(super) epochs: BTreeMap<u64, Epoch>,
    /// Records that came again.
    pub(super) duplicates: usize,
    /// What was wrong with what came.
    pub(super) flaws: Vec<String>,
    pub(super) hellos: usize,
    pub(super) peers: Vec<String>,
}

/// Says no before anything is looked at: status, reason and whether for good.
pub(super) type Refuse = dyn Fn(&str, &[u8]) -> Option<(u16, &'static str, bool)> + Send;

struct Shared {
    books: Mutex<Books>,
    refuse: Mutex<Box<Refuse>>,
    /// Answers that are turned into 503 after the work was done.
    swallow: Mutex<usize>,
    roots: TrustRoots,
}

pub(super) struct Receiver {
    shared: Arc<Shared>,
    address: String,
    _task: AbortOnDropHandle<()>,
}

impl Receiver {
    pub(super) async fn start(authority: &Authority) -> Self {
        let identity = authority.identity(COLLECTOR);
        let shared = Arc::new(Shared {
            books: Mutex::default(),
            refuse: Mutex::new(Box::new(|_, _| None)),
            swallow: Mutex::default(),
            roots: authority.roots(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let tls = TlsAcceptor::from(server_config(
            &identity,
            ClientAuth::Required,
            &[b"http/1.1"],
        ));
        let serving = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let (tls, shared) = (tls.clone(), Arc::clone(&serving));
                tokio::spawn(async move {
                    let Ok(stream) = tls.accept(tcp).await else {
                        return;
                    };
                    let certificates = stream.get_ref().1.peer_certificates().unwrap();
                    let peer = peer_of(certificates).unwrap().spiffe_id.as_str().to_owned();
                    lock(&shared.books).peers.push(peer);
                    let service = service_fn(|request| answer(Arc::clone(&shared), request));
                    // The writer's end closes it; that is no flaw.
                    drop(
                        http1::Builder::new()
                            .serve_connection(TokioIo::new(stream), service)
                            .await,
                    );
                });
            }
        });
        Self {
            shared,
            address,
            _task: AbortOnDropHandle::new(task),
        }
    }

    pub(super) fn address(&self) -> String {
        self.address.clone()
    }

    pub(super) fn refuse(
        &self,
        refuse: impl Fn(&str, &[u8]) -> Option<(u16, &'static str, bool)> + Send + 'static,
    ) {
        *lock(&self.shared.refuse) = Box::new(refuse);
    }

    pub(super) fn refuse_nothing(&self) {
        self.refuse(|_, _| None);
    }

    pub(super) fn swallow(&self, answers: usize) {
        *lock(&self.shared.swallow) = answers;
    }

    /// Looks at what arrived.
    pub(super) fn books<T>(&self, look: impl FnOnce(&mut Books) -> T) -> T {
        look(&mut lock(&self.shared.books))
    }

    pub(super) fn entries(&self, epoch: u64) -> usize {
        self.books(|books| {
            books
                .epochs
                .get(&epoch)
                .map_or(0, |epoch| epoch.streams.values().map(Records::len).sum())
        })
    }

    pub(super) fn statements(&self, epoch: u64) -> Vec<Statement> {
        self.books(|books| {
            books.epochs.get(&epoch).map_or(Vec::new(), |epoch| {
                epoch
                    .statements
                    .values()
                    .map(|(statement, _)| statement.clone())
                    .collect()
            })
        })
    }

    /// Panics when anything that came was wrong, or anything of `epoch` is not stated exactly once.
    pub(super) fn assert_sound(&self, epoch: u64) {
        self.books(|books| {
            assert_eq!(books.flaws, Vec::<String>::new());
            let mut stated: BTreeMap<String, u64> = BTreeMap::new();
            for epoch_of in books.epochs.values() {
                for (statement, _) in epoch_of.statements.values() {
                    for (of, range) in statement.covered().filter(|(of, _)| of.0 == epoch) {
                        let next = stated.entry(range.stream.to_string()).or_default();
                        assert_eq!(*next, range.first_seq, "epoch {of}: ranges join");
                        *next += range.count;
                    }
                }
            }
            let kept = &books
                .epochs
                .get(&epoch)
                .expect("the epoch is known")
                .streams;
            let due: BTreeMap<_, _> = kept
                .iter()
                .map(|(stream, kept)| (stream.clone(), kept.len() as u64))
                .collect();
            assert_eq!(stated, due, "every entry is stated once");
        });
    }
}

async fn answer(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    assert_eq!(head.method, Method::POST);
    let refused = (*lock(&shared.refuse))(head.uri.path(), &body);
    let (status, json) = match refused {
        Some((status, reason, permanent)) => (status, refusal(reason, permanent)),
        None => take(&shared, head.uri.path(), &body),
    };
    let mut swallow = lock(&shared.swallow);
    let (status, json) = if *swallow > 0 && head.uri.path() != "/v1/hello" {
        *swallow -= 1;
        (503, refusal("overload", false))
    } else {
        (status, json)
    };
    let mut answer = Response::new(Full::from(json.to_string()));
    *answer.status_mut() = StatusCode::from_u16(status).unwrap();
    Ok(answer)
}

fn refusal(reason: &str, permanent: bool) -> serde_json::Value {
    serde_json::json!({ "reason": reason, "detail": "for a test", "permanent": permanent })
}

fn take(shared: &Shared, path: &str, body: &[u8]) -> (u16, serde_json::Value) {
    let mut books = lock(&shared.books);
    let mut answer = serde_json::json!({ "origin": "test/1", "checkpoint": "checkpoint 1" });
    match path {
        "/v1/hello" => {
            let signed = Signed::from_wire(body).unwrap();
            match verify_announcement(
                &shared.roots,
                &signed.bytes,
                &signed.signature,
                clock::wall(),
            ) {
                Ok((announcement, _)) => {
                    let epoch = books.epochs.entry(announcement.epoch.0).or_default();
                    if epoch.key.is_some_and(|key| key != announcement.audit_key) {
                        books.flaws.push("an epoch announces two keys".to_owned());
                    } else {
                        epoch.key = Some(announcement.audit_key);
                    }
                }
                Err(refusal) => books.flaws.push(format!("announcement: {refusal:?}")),
            }
            books.hellos += 1;
            answer["epochs"] = known(&books);
        }
        "/v1/batch" => {
            if let Err(reason) = take_batch(&mut books, body) {
                return (409, refusal(reason, false));
            }
        }
        "/v1/statement" => match take_statement(&mut books, body) {
            Ok(()) => {}
            Err(reason @ ("entries_missing" | "not_announced")) => {
                return (409, refusal(reason, false));
            }
            Err(flaw) => {
                books.flaws.push(flaw.to_owned());
                return (400, refusal("malformed", true));
            }
        },
        other => books.flaws.push(format!("asked for {other}")),
    }
    (200, answer)
}

fn known(books: &Books) -> serde_json::Value {
    let open = books.epochs.iter().filter(|(_, epoch)| !epoch.is_closed);
    open.map(|(number, epoch)| {
        let last = epoch.statements.last_key_value();
        let streams: serde_json::Map<_, _> = epoch
            .streams
            .iter()
            .map(|(name, records)| {
                let next = records.last_key_value().map_or(0, |(seq, _)| seq + 1);
                (name.clone(), next.into())
            })
            .collect();
        serde_json::json!({
            "epoch": number,
            "number": last.map(|(number, _)| number),
            "sha256": last.map(|(_, (_, hash))| hex::encode(hash)),
            "streams": streams,
        })
    })
    .collect()
}

fn take_batch(books: &mut Books, body: &[u8]) -> Result<(), &'static str> {
    assert!(body.len() <= 4 << 20, "a batch is at most 4 MiB");
    let mut epochs: Vec<u64> = Vec::new();
    for record in records(body) {
        let record = record.unwrap();
        let header = RecordView::parse(record).unwrap().header().unwrap();
        epochs.push(header.epoch.0);
        let epoch = books.epochs.entry(header.epoch.0).or_default();
        if epoch.key.is_none() {
            return Err("not_announced");
        }
        let kept = epoch.streams.entry(header.stream.to_string()).or_default();
        match kept.insert(header.seq, record.to_vec()) {
            None => {}
            Some(before) if before == record => books.duplicates += 1,
            Some(_) => books.flaws.push(format!("two records are {header:?}")),
        }
    }
    epochs.dedup();
    assert_eq!(epochs.len(), 1, "a batch is of one epoch");
    Ok(())
}

fn take_statement(books: &mut Books, body: &[u8]) -> Result<(), &'static str> {
    let signed = Signed::from_wire(body).ok_or("cut")?;
    let statement = Statement::decode(&signed.bytes).map_err(|_| "not decodable")?;
    let hash = sha256(&signed.bytes);
    let epoch = books.epochs.entry(statement.epoch.0).or_default();
    let key = epoch.key.ok_or("not_announced")?;
    let over = [b"counterfoil/statement-signature/v1\0".as_slice(), &hash].concat();
    UnparsedPublicKey::new(&ED25519, key)
        .verify(&over, &signed.signature)
        .map_err(|_| "the signature is wrong")?;
    if let Some((_, kept)) = epoch.statements.get(&statement.number) {
        return if *kept == hash {
            Ok(())
        } else {
            Err("two statements have one number")
        };
    }
    if let Some(before) = statement
        .number
        .checked_sub(1)
        .and_then(|n| epoch.statements.get(&n))
        && statement.previous.map(|hash| hash.0) != Some(before.1)
    {
        return Err("the chain is broken");
    }
    for (of, range) in statement.covered() {
        check_range(books, of.0, range)?;
    }
    match &statement.kind {
        StatementKind::Regular => {}
        StatementKind::Final => close(books, statement.epoch.0),
        StatementKind::Recovery(recovery) => close(books, recovery.old_epoch.0),
    }
    let epoch = books.epochs.entry(statement.epoch.0).or_default();
    epoch.statements.insert(statement.number, (statement, hash));
    Ok(())
}

fn close(books: &mut Books, epoch: u64) {
    books.epochs.entry(epoch).or_default().is_closed = true;
}

fn check_range(books: &Books, epoch: u64, range: &StreamRange) -> Result<(), &'static str> {
    let none = Records::new();
    let kept = books
        .epochs
        .get(&epoch)
        .and_then(|epoch| epoch.streams.get(&range.stream.to_string()))
        .unwrap_or(&none);
    let leaves: Vec<[u8; 32]> = kept
        .range(range.first_seq..range.first_seq + range.count)
        .map(|(_, record)| sha256(&[&[0], record.as_slice()].concat()))
        .collect();
    if leaves.len() as u64 != range.count {
        return Err("entries_missing");
    }
    if root(&leaves) == range.root.0 {
        Ok(())
    } else {
        Err("the root is wrong")
    }
}

/// RFC 6962 section 2.1, as it is written.
pub(super) fn root(leaves: &[[u8; 32]]) -> [u8; 32] {
    match leaves {
        [] => sha256(&[]),
        [one] => *one,
        more => {
            let (left, right) = more.split_at(more.len().next_power_of_two() / 2);
            sha256(&[&[1], root(left).as_slice(), &root(right)].concat())
        }
    }
}

pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    digest(&SHA256, bytes).as_ref().try_into().unwrap()
}
