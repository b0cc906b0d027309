//! The wire, with psql itself, and HTTP.

use std::process::{Command, Output};
use std::sync::Arc;

use counterfoil_entry::frame::FrameReader;
use counterfoil_entry::id::{RetentionClass, Writer};
use counterfoil_entry::{Hash, record::RecordView};
use counterfoil_spool::{Spool, SpoolConfig};
use http_body_util::BodyExt;
use tokio::net::TcpListener;
use tower::ServiceExt;

use super::estate::Estate;
use super::shop::Shop;
use crate::alerts::Gauges;
use crate::engine::Engine;
use crate::log::QueryLog;
use crate::metrics::{Metrics, Statements};
use crate::users::Users;
use crate::{Books, http, pg, template};
use counterfoil_trust::scram::Verifier;

const PASSWORD: &str = "correct horse";

struct Served {
    port: u16,
    spool: tempfile::TempDir,
    engine: Arc<Engine>,
    users: Arc<Users>,
    _open: Spool,
}

async fn serve(shop: &Shop) -> Served {
    let verifier = Verifier::of_password(PASSWORD);
    let text =
        format!("[[user]]\nname = \"auditor\"\nrole = \"auditor\"\nverifier = \"{verifier}\"\n");
    let users = Arc::new(Users::parse(std::path::Path::new("users.toml"), &text).unwrap());
    let spool = tempfile::tempdir().unwrap();
    let open = Spool::open(SpoolConfig {
        directory: spool.path().to_owned(),
        writer: Writer::parse("spiffe://shop.test/counterfoil/query#1").unwrap(),
        size_max: 64 << 20,
        build: "test".into(),
        config_sha256: Hash::default(),
    })
    .unwrap();
    let log = QueryLog::new(open.lane(0), RetentionClass::parse("sox_7y").unwrap());
    let template = template::template(256 << 20, 2).unwrap();
    let cpu = tokio::runtime::Handle::current();
    let books = Books::open(shop.path()).unwrap();
    let engine = Engine::new(books, template, Vec::new(), cpu, 4, Some(log)).unwrap();
    let engine = Arc::new(engine.with_users(&users));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = Arc::new(pg::Server::new(
        Arc::clone(&engine),
        Arc::clone(&users),
        false,
    ));
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(Arc::clone(&server).serve(stream, None));
        }
    });
    Served {
        port,
        spool,
        engine,
        users,
        _open: open,
    }
}

impl Served {
    async fn psql_as(&self, user: &str, password: &str, sql: &str) -> Output {
        let mut command = Command::new("psql");
        command
            .args([
                "-X",
                "-A",
                "-t",
                "-v",
                "VERBOSITY=verbose",
                "-h",
                "127.0.0.1",
            ])
            .args([
                "-p",
                &self.port.to_string(),
                "-U",
                user,
                "counterfoil",
                "-c",
                sql,
            ])
            .env("PGPASSWORD", password)
            .env("PGCONNECT_TIMEOUT", "20");
        tokio::task::spawn_blocking(move || command.output().expect("psql is installed"))
            .await
            .unwrap()
    }

    async fn psql(&self, sql: &str) -> (String, String) {
        let output = self.psql_as("auditor", PASSWORD, sql).await;
        (
            String::from_utf8(output.stdout).unwrap().trim().to_owned(),
            String::from_utf8(output.stderr).unwrap(),
        )
    }

    /// Phase and text of each query in the spool.
    fn logged(&self) -> Vec<(String, String)> {
        let rows = self.log_of([6, 11]).into_iter();
        rows.map(|[phase, sql]| (phase, sql)).collect()
    }

    /// Those fields of each row of the query log in the spool; what is null is empty.
    fn log_of<const N: usize>(&self, ids: [u16; N]) -> Vec<[String; N]> {
        let mut rows = Vec::new();
        let mut folders = vec![self.spool.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if path
                    .file_name()
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .starts_with("query_log.")
                {
                    let bytes = std::fs::read(&path).unwrap();
                    for frame in FrameReader::new(bytes.get(8..).unwrap_or_default()) {
                        let view = RecordView::parse(frame.payload).unwrap();
                        let fields = counterfoil_entry::tlv::Fields::parse(view.body).unwrap();
                        rows.push(ids.map(|id| {
                            let text = fields.text_opt(id).unwrap();
                            text.unwrap_or_default().to_owned()
                        }));
                    }
                }
            }
        }
        rows
    }
}

fn shop() -> Shop {
    let mut shop = Shop::open();
    let (mut web, mut cart) = (shop.proxy("web"), shop.proxy("cart"));
    shop.matched(&mut web, &mut cart, "GetCart");
    shop
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn psql_logs_in_asks_and_is_logged_before_and_after() {
    let shop = shop();
    let served = serve(&shop).await;
    let (out, err) = served.psql("select operation, matched from calls").await;
    assert_eq!((out.as_str(), err.as_str()), ("GetCart|t", ""));
    let logged = served.logged();
    let sql = "select operation, matched from calls".to_owned();
    assert_eq!(
        logged,
        [("start".to_owned(), sql.clone()), ("end".to_owned(), sql)]
    );
    for (sql, expected) in [
        ("select current_user", "auditor"),
        ("show transaction isolation level", "read committed"),
        (
            "select count(*) from entries where side = 'client'; select 2",
            "1\n2",
        ),
        ("-- ping", ""),
        (
            "set application_name = 'x'; show application_name",
            "SET\nx",
        ),
        ("begin; select 1; commit", "BEGIN\n1\nCOMMIT"),
        ("select scopes from entries limit 1", "sox,pci"),
        (
            "select current_setting('server_version_num')::int / 100",
            "1600",
        ),
    ] {
        let (out, err) = served.psql(sql).await;
        assert_eq!((out.as_str(), err.as_str()), (expected, ""), "{sql}");
    }
    let (out, err) = served.psql("\\d calls").await;
    assert!(
        out.contains("trace_id") && out.contains("timestamp"),
        "{out} {err}"
    );
    let (out, err) = served.psql("\\dv").await;
    assert!(out.contains("latency_overhead"), "{out} {err}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_session_names_its_purpose_and_the_users_are_known() {
    let estate = Estate::clean();
    let served = serve(&estate.shop).await;
    let sql = "set counterfoil.purpose = 'review 7'; select 1; reset counterfoil.purpose; \
               select name, role from users";
    let (out, err) = served.psql(sql).await;
    assert_eq!(
        (out.as_str(), err.as_str()),
        ("SET\n1\nRESET\nauditor|auditor", "")
    );
    let purposes: Vec<String> = served.log_of([10]).into_iter().map(|[one]| one).collect();
    assert_eq!(purposes, ["review 7", "review 7", "", ""]);
    let (out, err) = served.psql("select principal, known, why from e17").await;
    assert_eq!(
        (out.as_str(), err.as_str()),
        ("ann|f|unknown_principal", "")
    );
    let (out, err) = served.psql("select count(*) from flow('ab')").await;
    assert!(
        out.is_empty() && err.contains("22023") && err.contains("32 hexadecimal"),
        "{err}"
    );
    let (out, err) = served
        .psql("select count(*) from flow('01010101010101010000000000000001')")
        .await;
    assert_eq!((out.as_str(), err.as_str()), ("1", ""));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_wrong_password_and_an_unknown_user_look_the_same() {
    let shop = shop();
    let served = serve(&shop).await;
    for (user, password) in [("auditor", "wrong"), ("nobody", "wrong"), ("nobody", "")] {
        let output = served.psql_as(user, password, "select 1").await;
        let err = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success());
        let told = format!("password authentication failed for user \"{user}\"");
        assert!(
            err.contains(&told) || err.contains("no password supplied"),
            "{err}"
        );
    }
    assert!(served.logged().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn each_write_is_refused_with_its_code_and_logged() {
    let shop = shop();
    let served = serve(&shop).await;
    let target = shop.path().join("stolen");
    let file = target.display();
    let writes = [
        "insert into entries (side) values ('x')".to_owned(),
        "create table t (a int)".to_owned(),
        "drop table entries".to_owned(),
        "delete from entries".to_owned(),
        "copy entries from stdin".to_owned(),
        format!("copy (select 1) to '{file}'"),
        "select 1; drop table entries".to_owned(),
        "explain analyze delete from entries".to_owned(),
        "set role postgres".to_owned(),
    ];
    for sql in &writes {
        let (_, err) = served.psql(sql).await;
        assert!(
            err.contains("25006") || err.contains("42501"),
            "{sql}: {err}"
        );
    }
    assert!(!target.exists());
    let logged = served.logged();
    for sql in &writes {
        assert!(
            logged.contains(&("refused".to_owned(), sql.clone())),
            "{sql}: {logged:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn errors_have_the_codes_and_positions_of_postgresql() {
    let shop = shop();
    let served = serve(&shop).await;
    for (sql, code, position) in [
        ("select * from nope", "42P01", Some(15)),
        ("select nope from calls", "42703", Some(8)),
        ("select 1 +", "42601", None),
        ("select 1 / 0", "22012", None),
        (
            "set statement_timeout = 200; select count(*) from generate_series(1, 100000000000)",
            "57014",
            None,
        ),
    ] {
        let (_, err) = served.psql(sql).await;
        assert!(err.contains(code), "{sql}: {err}");
        if let Some(position) = position {
            let caret = err
                .lines()
                .find(|line| line.trim() == "^")
                .unwrap_or_default();
            assert_eq!(
                caret.find('^'),
                Some("LINE 1: ".len() + position - 1),
                "{err}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn http_answers_json_with_numbers_and_refuses_writes_and_strangers() {
    let shop = shop();
    let served = serve(&shop).await;
    let metrics = Metrics::new(&Statements::default(), &Gauges::default());
    let router = http::router(
        Arc::clone(&served.engine),
        Arc::clone(&served.users),
        metrics,
    );
    let ask = |password: &str, body: &str| {
        let credentials = base64::Engine::encode(
            &base64::engine::general_purpose::STANDARD,
            format!("auditor:{password}"),
        );
        let peer = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
        let request = ::http::Request::post("/v1/sql")
            .header("authorization", format!("Basic {credentials}"))
            .header("content-type", "application/json")
            .extension(axum::extract::ConnectInfo(peer))
            .body(axum::body::Body::from(body.to_owned()))
            .unwrap();
        let router = router.clone();
        async move {
            let response = router.oneshot(request).await.unwrap();
            let status = response.status().as_u16();
            let body = response.into_body().collect().await.unwrap().to_bytes();
            (status, String::from_utf8(body.to_vec()).unwrap())
        }
    };
    let question = r#"{"sql": "select operation, client_duration_ns from calls where operation = $1", "parameters": ["GetCart"], "purpose": "test"}"#;
    assert_eq!(
        ask(PASSWORD, question).await,
        (200, r#"{"columns":[{"name":"operation","type":"text"},{"name":"client_duration_ns","type":"bigint"}],"rows":[{"operation":"GetCart","client_duration_ns":5000000}]}"#.to_owned())
    );
    let (status, body) = ask(PASSWORD, r#"{"sql": "drop table entries"}"#).await;
    assert!(status == 403 && body.contains("25006"), "{status} {body}");
    for body in [question, "no json"] {
        let (status, body) = ask("wrong", body).await;
        assert!(status == 401 && body.contains("28P01"), "{status} {body}");
    }
    for malformed in [
        "no json",
        "{}",
        r#"{"sql": 1}"#,
        r#"{"sql": "select 1", "x": 1}"#,
    ] {
        let (status, body) = ask(PASSWORD, malformed).await;
        assert_eq!(status, 400, "{malformed}: {body}");
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(body["sqlstate"], "08P01", "{malformed}: {body}");
    }
    let (status, body) = ask(PASSWORD, r#"{"sql": "select $1", "parameters": [{}]}"#).await;
    assert!(status == 400 && body.contains("22023"), "{status} {body}");
    assert!(
        served
            .logged()
            .contains(&("refused".to_owned(), "select $1".to_owned()))
    );
}

/// One message of the PostgreSQL protocol: its type, its length, its body.
fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
    [&[kind], len.as_slice(), body].concat()
}

/// A raw client, for what psql does not send: the extended protocol and cancel requests.
struct Raw {
    stream: tokio::net::TcpStream,
    key: Vec<u8>,
}

impl Raw {
    async fn log_in(port: u16) -> Self {
        use base64::Engine as _;
        use tokio::io::AsyncWriteExt;
        let base64 = base64::engine::general_purpose::STANDARD;
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port))
            .await
            .unwrap();
        let mut start = 196_608_u32.to_be_bytes().to_vec();
        start.extend_from_slice(b"user\0auditor\0database\0counterfoil\0\0");
        let len = u32::try_from(start.len() + 4).unwrap().to_be_bytes();
        stream
            .write_all(&[len.as_slice(), &start].concat())
            .await
            .unwrap();
        let mut raw = Self {
            stream,
            key: Vec::new(),
        };
        assert_eq!(raw.read().await.1, b"\0\0\0\x0aSCRAM-SHA-256\0\0");
        let bare = "n=,r=clientnonce";
        let first = format!("n,,{bare}");
        let len = u32::try_from(first.len()).unwrap().to_be_bytes();
        raw.send(
            b'p',
            &[b"SCRAM-SHA-256\0", len.as_slice(), first.as_bytes()].concat(),
        )
        .await;
        let server_first = String::from_utf8(raw.read().await.1[4..].to_vec()).unwrap();
        let parts: Vec<&str> = server_first
            .split(',')
            .filter_map(|part| part.get(2..))
            .collect();
        let salt = base64.decode(parts[1]).unwrap();
        let mut salted = [0; 32];
        let rounds = parts[2].parse().unwrap();
        let algorithm = aws_lc_rs::pbkdf2::PBKDF2_HMAC_SHA256;
        aws_lc_rs::pbkdf2::derive(algorithm, rounds, &salt, PASSWORD.as_bytes(), &mut salted);
        let hmac = |key: &[u8], text: &[u8]| {
            use aws_lc_rs::hmac::{HMAC_SHA256, Key, sign};
            sign(&Key::new(HMAC_SHA256, key), text).as_ref().to_vec()
        };
        let client_key = hmac(&salted, b"Client Key");
        let stored = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &client_key);
        let without_proof = format!("c=biws,r={}", parts[0]);
        let message = format!("{bare},{server_first},{without_proof}");
        let signature = hmac(stored.as_ref(), message.as_bytes());
        let proof: Vec<u8> = client_key
            .iter()
            .zip(signature)
            .map(|(a, b)| a ^ b)
            .collect();
        let last = format!("{without_proof},p={}", base64.encode(proof));
        raw.send(b'p', last.as_bytes()).await;
        loop {
            match raw.read().await {
                (b'K', body) => raw.key = body,
                (b'Z', _) => return raw,
                (kind, body) => assert_ne!(kind, b'E', "{}", String::from_utf8_lossy(&body)),
            }
        }
    }

    async fn send(&mut self, kind: u8, body: &[u8]) {
        use tokio::io::AsyncWriteExt;
        self.stream.write_all(&message(kind, body)).await.unwrap();
    }

    async fn read(&mut self) -> (u8, Vec<u8>) {
        use tokio::io::AsyncReadExt;
        let kind = self.stream.read_u8().await.unwrap();
        let len = usize::try_from(self.stream.read_u32().await.unwrap()).unwrap();
        let mut body = vec![0; len - 4];
        self.stream.read_exact(&mut body).await.unwrap();
        (kind, body)
    }

    /// Kinds and bodies of the messages up to the next `ReadyForQuery`.
    async fn answer(&mut self) -> Vec<(u8, String)> {
        let mut all = Vec::new();
        loop {
            let (kind, body) = self.read().await;
            if kind == b'Z' {
                return all;
            }
            all.push((kind, String::from_utf8_lossy(&body).into_owned()));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_extended_protocol_binds_parameters_and_refuses_writes() {
    let shop = shop();
    let served = serve(&shop).await;
    let mut raw = Raw::log_in(served.port).await;
    raw.send(
        b'P',
        b"\0select operation, status + $2 from calls where operation = $1\0\0\0",
    )
    .await;
    raw.send(b'D', b"S\0").await;
    raw.send(b'B', b"\0\0\0\0\0\x02\0\0\0\x07GetCart\0\0\0\x011\0\0")
        .await;
    raw.send(b'E', b"\0\0\0\0\0").await;
    raw.send(b'S', b"").await;
    let answer = raw.answer().await;
    let kinds: Vec<char> = answer.iter().map(|(kind, _)| char::from(*kind)).collect();
    assert_eq!(kinds, ['1', 't', 'T', '2', 'D', 'C'], "{answer:?}");
    assert!(answer[4].1.ends_with("GetCart\0\0\0\u{3}201"), "{answer:?}");
    let nulls = b"\0select count(*) from calls where ($1::text is null or operation = $1) and $2::text = '{b}' and $3 is null\0\0\0";
    raw.send(b'P', nulls).await;
    let null = (-1_i32).to_be_bytes();
    let bound = [
        b"\0\0\0\0\0\x03".as_slice(),
        &null,
        b"\0\0\0\x03{b}",
        &null,
        b"\0\0",
    ];
    raw.send(b'B', &bound.concat()).await;
    raw.send(b'E', b"\0\0\0\0\0").await;
    raw.send(b'S', b"").await;
    let answer = raw.answer().await;
    assert!(
        answer[2].0 == b'D' && !answer[2].1.ends_with('0'),
        "{answer:?}"
    );
    raw.send(b'P', b"\0delete from entries\0\0\0").await;
    raw.send(b'S', b"").await;
    let answer = raw.answer().await;
    assert!(
        answer[0].0 == b'E' && answer[0].1.contains("25006"),
        "{answer:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_execute_sends_what_it_is_asked_for_and_its_failure_to_parse_is_logged() {
    let shop = shop();
    let served = serve(&shop).await;
    let mut raw = Raw::log_in(served.port).await;
    let parse = b"\0select value from generate_series(1, 5) t(value)\0\0\0";
    for (limits, expected) in [
        (&[i32::MAX][..], "12DDDDDC"),
        (&[-1], "12DDDDDC"),
        (&[2, 2, 0, 0], "12DDsDDsDCC"),
    ] {
        raw.send(b'P', parse).await;
        raw.send(b'B', b"\0\0\0\0\0\0\0\0").await;
        for limit in limits {
            raw.send(b'E', &[b"\0".as_slice(), &limit.to_be_bytes()].concat())
                .await;
        }
        raw.send(b'S', b"").await;
        let kinds: String = raw
            .answer()
            .await
            .iter()
            .map(|(kind, _)| char::from(*kind))
            .collect();
        assert_eq!(kinds, expected, "{limits:?}");
    }
    raw.send(b'P', b"\0select nope from calls\0\0\0").await;
    raw.send(b'S', b"").await;
    assert!(raw.answer().await[0].1.contains("42703"));
    let logged = served.logged();
    assert!(
        logged.contains(&("refused".to_owned(), "select nope from calls".to_owned())),
        "{logged:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_statements_of_a_message_run_one_after_the_other() {
    let shop = shop();
    let served = serve(&shop).await;
    let many = ["select count(*) from calls"; 12].join("; ");
    let (out, err) = served.psql(&many).await;
    assert_eq!(
        (out.lines().count(), err.as_str()),
        (12, ""),
        "more than there are turns"
    );
    let (out, err) = served.psql("select 7; select 1 / 0; select 8").await;
    assert!(out == "7" && err.contains("22012"), "{out} {err}");
    let (_, err) = served.psql("begin; select 1 / 0; select 2").await;
    assert!(err.contains("22012"), "{err}");
    let (_, err) = served.psql("select repeat('x', 2000000000)").await;
    assert!(err.contains("42883"), "{err}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_client_that_does_not_read_gives_its_turn_back_at_its_timeout() {
    let shop = shop();
    let served = serve(&shop).await;
    let mut idle = Vec::new();
    for _ in 0..4 {
        let mut raw = Raw::log_in(served.port).await;
        let sql = b"set statement_timeout = 1500; select value as a, -value as b from generate_series(1, 50000000)\0";
        raw.send(b'Q', sql).await;
        idle.push(raw);
    }
    while served.logged().len() < 4 {
        tokio::task::yield_now().await;
    }
    let (out, err) = served.psql("select 1").await;
    assert_eq!((out.as_str(), err.as_str()), ("1", ""));
    let answer = idle.swap_remove(0).answer().await;
    let last = answer.last().unwrap();
    assert!(last.0 == b'E' && last.1.contains("57014"), "{last:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_join_that_makes_many_rows_of_few_stops_and_one_that_could_not_is_refused() {
    let shop = shop();
    let served = serve(&shop).await;
    let series = |name: &str| format!("generate_series(1, 1000000) {name}(v)");
    let (a, b) = (series("a"), series("b"));
    for _ in 0..6 {
        let sql = format!("set statement_timeout = 200; select count(*) from {a}, {b}");
        let (_, err) = served.psql(&sql).await;
        assert!(err.contains("57014"), "{err}");
    }
    let (out, err) = served.psql("select 1").await;
    assert_eq!(
        (out.as_str(), err.as_str()),
        ("1", ""),
        "no thread is left busy"
    );
    let sql = format!("select count(*) from {a}, {b} where a.v < b.v");
    let (_, err) = served.psql(&sql).await;
    assert!(err.contains("54000"), "{err}");
    let (out, err) = served
        .psql("select count(*) from generate_series(1, 10) a(v), generate_series(1, 10) b(v) where a.v < b.v")
        .await;
    assert_eq!((out.as_str(), err.as_str()), ("45", ""));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_cancel_request_stops_a_statement_and_the_connection_lives_on() {
    use tokio::io::AsyncWriteExt;
    let shop = shop();
    let served = serve(&shop).await;
    let mut raw = Raw::log_in(served.port).await;
    raw.send(
        b'Q',
        b"select count(*) from generate_series(1, 100000000000); select 2\0",
    )
    .await;
    while served.logged().is_empty() {
        tokio::task::yield_now().await;
    }
    let mut wrong = raw.key.clone();
    wrong[7] ^= 1;
    for key in [wrong, raw.key.clone()] {
        let mut other = tokio::net::TcpStream::connect(("127.0.0.1", served.port))
            .await
            .unwrap();
        let request = [
            &16_u32.to_be_bytes(),
            &80_877_102_u32.to_be_bytes(),
            key.as_slice(),
        ];
        other.write_all(&request.concat()).await.unwrap();
    }
    let answer = raw.answer().await;
    assert!(
        answer
            .iter()
            .any(|(kind, body)| *kind == b'E' && body.contains("57014")),
        "{answer:?}"
    );
    raw.send(b'Q', b"select 1\0").await;
    assert_eq!(raw.answer().await[1].0, b'D');
}

/// The configuration of a role without control or collector, and its two ports.
fn role(
    shop: &Shop,
    folder: &std::path::Path,
) -> (String, std::net::SocketAddr, std::net::SocketAddr) {
    let at = |name: &str| folder.join(name).display().to_string();
    let verifier = Verifier::of_password(PASSWORD);
    let users =
        format!("[[user]]\nname = \"auditor\"\nrole = \"auditor\"\nverifier = \"{verifier}\"\n");
    std::fs::write(at("users.toml"), users).unwrap();
    let free = || {
        std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
    };
    let (postgres, web) = (free(), free());
    let config = format!(
        "data_dir = {:?}\npostgres_listen = \"{postgres}\"\nhttp_listen = \"{web}\"\nusers_file = {:?}\n\
         collector = \"127.0.0.1:1\"\nspool_dir = {:?}\n[identity]\n\
         spiffe_id = \"spiffe://shop.test/counterfoil/query\"\ncontrol = \"127.0.0.1:1\"\n\
         roots_pem_file = {:?}\nstate_dir = {:?}\n\
         join_token_file = {:?}\n",
        shop.path(),
        at("users.toml"),
        at("spool"),
        at("roots.pem"),
        at("state"),
        at("token"),
    );
    let mut root = rcgen::CertificateParams::default();
    root.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().unwrap();
    std::fs::write(at("roots.pem"), root.self_signed(&key).unwrap().pem()).unwrap();
    std::fs::write(at("token"), "token").unwrap();
    (config, postgres, web)
}

/// What psql prints, and says, when it asks in this `sslmode`.
async fn psql_over_tls(port: u16, cert: std::path::PathBuf, mode: &str) -> (String, String) {
    let url = format!(
        "host=localhost hostaddr=127.0.0.1 port={port} user=auditor dbname=counterfoil \
         sslmode={mode} sslrootcert={}",
        cert.display(),
    );
    let mut command = Command::new("psql");
    command.args(["-X", "-A", "-t", &url, "-c", "select operation from calls"]);
    command.env("PGPASSWORD", PASSWORD);
    command.env("PGCONNECT_TIMEOUT", "20");
    let output = tokio::task::spawn_blocking(move || command.output().unwrap());
    let output = output.await.unwrap();
    (
        String::from_utf8(output.stdout).unwrap().trim().to_owned(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

/// A client that speaks HTTP over TLS and trusts one certificate.
fn http_over_tls(root: &rustls::pki_types::CertificateDer<'static>) -> tokio_rustls::TlsConnector {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(root.clone()).unwrap();
    let mut client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.alpn_protocols = vec![b"http/1.1".to_vec()];
    tokio_rustls::TlsConnector::from(Arc::new(client))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn with_certificates_both_ports_speak_tls_and_nothing_else() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let shop = shop();
    let folder = tempfile::tempdir().unwrap();
    let (config, postgres, web) = role(&shop, folder.path());
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (cert, key) = (
        folder.path().join("cert.pem"),
        folder.path().join("key.pem"),
    );
    std::fs::write(&cert, own.cert.pem()).unwrap();
    std::fs::write(&key, own.signing_key.serialize_pem()).unwrap();
    let config = format!("tls_cert_file = {cert:?}\ntls_key_file = {key:?}\n{config}");
    let file = folder.path().join("query.toml");
    std::fs::write(&file, config).unwrap();
    let config = crate::QueryConfig::load(&file).unwrap();
    let stop = tokio_util::sync::CancellationToken::new();
    let running = tokio::spawn(crate::run(config, stop.clone()));
    let psql = |mode: &'static str| psql_over_tls(postgres.port(), cert.clone(), mode);
    while tokio::net::TcpStream::connect(web).await.is_err() {
        assert!(!running.is_finished(), "the role ended");
    }
    for mode in ["require", "verify-full"] {
        let (out, err) = psql(mode).await;
        assert_eq!((out.as_str(), err.as_str()), ("GetCart", ""), "{mode}");
    }
    let (out, err) = psql("disable").await;
    assert!(
        out.is_empty() && err.contains("over TLS only"),
        "{out} {err}"
    );

    let client = http_over_tls(own.cert.der());
    let connect = |address| {
        let client = client.clone();
        async move {
            let stream = tokio::net::TcpStream::connect(address).await.unwrap();
            client
                .connect("localhost".try_into().unwrap(), stream)
                .await
        }
    };
    let ask = "GET /v1/health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    let mut stream = connect(web).await.unwrap();
    stream.write_all(ask.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert!(
        answer.starts_with(b"HTTP/1.1 200"),
        "{}",
        String::from_utf8_lossy(&answer)
    );
    assert!(
        connect(postgres).await.is_err(),
        "HTTP is not spoken on the other port"
    );
    let mut plain = tokio::net::TcpStream::connect(web).await.unwrap();
    plain.write_all(ask.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // However the server ends the connection, it does not answer.
    let _reset = plain.read_to_end(&mut answer).await;
    assert!(
        !answer.starts_with(b"HTTP"),
        "{}",
        String::from_utf8_lossy(&answer)
    );
    stop.cancel();
    running.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_role_serves_without_control_or_collector_and_stops_when_told() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let shop = shop();
    let folder = tempfile::tempdir().unwrap();
    let (config, postgres, web) = role(&shop, folder.path());
    let at = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(at("query.toml"), &config).unwrap();
    let wrong = config.replace("127.0.0.1:1\"\nspool", "127.0.0.1:1\"\nlisten = 1\nspool");
    std::fs::write(at("wrong.toml"), wrong).unwrap();
    let error = crate::QueryConfig::load(at("wrong.toml").as_ref())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("wrong.toml") && error.contains("listen"),
        "{error}"
    );
    let public = config.replace(&postgres.to_string(), "0.0.0.0:5432");
    std::fs::write(at("public.toml"), public).unwrap();
    let error = crate::QueryConfig::load(at("public.toml").as_ref())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("postgres_listen") && error.contains("0.0.0.0:5432"),
        "{error}"
    );
    let config = crate::QueryConfig::load(at("query.toml").as_ref()).unwrap();
    let stop = tokio_util::sync::CancellationToken::new();
    let running = tokio::spawn(crate::run(config.clone(), stop.clone()));
    let mut stream = loop {
        match tokio::net::TcpStream::connect(web).await {
            Ok(stream) => break stream,
            Err(_) => assert!(!running.is_finished(), "the role ended"),
        }
    };
    stream
        .write_all(b"GET /v1/health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.contains("\"ok\""),
        "{answer}"
    );
    let taken = crate::run(config, stop.clone()).await.unwrap_err();
    assert!(taken.to_string().contains(&postgres.to_string()), "{taken}");
    stop.cancel();
    running.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reports_and_views_of_grants_answer_psql() {
    let mut estate = super::estate::Estate::clean();
    let at = estate.opened.plus_ns(60_000_000_000);
    estate.call("GetCart", at, |entry| entry.grant_id = None);
    let served = serve(&estate.shop).await;
    for (sql, expected) in [
        (
            "select id, view, kind from reports where id = 'E01'",
            "E01|e01|finding",
        ),
        (
            "select finding, operation, complete from e01",
            "no_grant_named|GetCart|f",
        ),
        ("select count(*) from e01() where start_time < now()", "1"),
        (
            "select grant_id, operation, in_force from grants_in_force order by operation limit 1",
            "g-1|GetCart|t",
        ),
        (
            "select slots, availability, verdict from mesh_availability",
            "12|1.0|met",
        ),
        (
            "select attempts, success_rate, verdict from rotation_success where scope = 'total'",
            "1|1.0|met",
        ),
        (
            "select id, rows, verdict from report_summary where kind = 'finding' and rows > 0",
            "E01|1|findings",
        ),
        (
            "select name from access_review as r join reports on true where r.unused limit 1",
            "",
        ),
    ] {
        let (out, err) = served.psql(sql).await;
        assert_eq!((out.as_str(), err.as_str()), (expected, ""), "{sql}");
    }
}
