//! The program itself: exit codes, and a life with and without control.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use counterfoil_entry::table::TableId;
use counterfoil_proxy::Policy;
use rustix::process::{Pid, Signal, kill_process};
use tokio::net::TcpListener;

use crate::app;
use crate::books::{DEADLINE, agreed, rows, until, wait_for};
use crate::ca::Ca;
use crate::client::{ask, get};
use crate::control::{Control, TOKEN};
use crate::world::{CART, SHOP, Setup, cart_bundle, shop_bundle};

/// A proxy's configuration on disk, and the ports that it was given.
struct Disk {
    directory: tempfile::TempDir,
    outbound: SocketAddr,
    admin: SocketAddr,
}

async fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
}

impl Disk {
    async fn new(control: &Control, ca: &Ca) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (outbound, admin) = (free().await, free().await);
        let at = |name: &str| directory.path().join(name);
        std::fs::write(at("roots.pem"), ca.roots_pem()).unwrap();
        std::fs::write(at("token"), TOKEN).unwrap();
        let text = format!(
            "spiffe_id = \"{SHOP}\"\ninstance = \"p\"\napp_address = \"127.0.0.1:9\"\n\
             outbound_listen = \"{outbound}\"\ninbound_listen = \"127.0.0.1:0\"\n\
             admin_listen = \"{admin}\"\ncontrol = \"{control}\"\ncollector = \"127.0.0.1:9\"\n\
             roots_file = {roots:?}\njoin_token_file = {token:?}\nstate_dir = {state:?}\n\
             spool_dir = {spool:?}\ngovernance_key = \"{governance}\"\ncontrol_key = \"{key}\"\n\
             drain_s = 1\nworkers = 2\n",
            control = control.address,
            roots = at("roots.pem"),
            token = at("token"),
            state = at("state"),
            spool = at("spool"),
            governance = hex::encode(control.governance.public()),
            key = hex::encode(control.control.public()),
        );
        std::fs::write(at("proxy.toml"), text).unwrap();
        Self {
            directory,
            outbound,
            admin,
        }
    }

    fn config(&self) -> PathBuf {
        self.directory.path().join("proxy.toml")
    }

    fn spool(&self) -> PathBuf {
        self.directory.path().join("spool")
    }

    fn start(&self) -> Process {
        let mut command = Command::new(env!("CARGO_BIN_EXE_counterfoil-proxy"));
        command
            .arg("--config")
            .arg(self.config())
            .stderr(Stdio::null());
        Process(command.spawn().unwrap())
    }

    /// Starts with files that may not grow beyond 32 KiB, and logs that nobody takes.
    fn start_on_a_full_disk(&self) -> Process {
        let full = std::fs::File::options().write(true).open("/dev/full");
        let mut command = Command::new("sh");
        command
            .arg("-c")
            .arg("trap '' XFSZ; ulimit -f 64; exec \"$@\"")
            .arg("sh")
            .arg(env!("CARGO_BIN_EXE_counterfoil-proxy"))
            .arg("--config")
            .arg(self.config())
            .stderr(full.unwrap());
        Process(command.spawn().unwrap())
    }

    /// Waits until the admin port answers `path` with `status`.
    async fn until(&self, path: &str, status: u16) -> String {
        let looking = async {
            loop {
                if tokio::net::TcpStream::connect(self.admin).await.is_ok() {
                    let answer = ask(self.admin, &get("admin", path)).await;
                    if answer.starts_with(&format!("HTTP/1.1 {status} ")) {
                        return answer;
                    }
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(DEADLINE, looking)
            .await
            .unwrap_or_else(|_| panic!("{path}: {status}"))
    }
}

/// A running program, killed when dropped.
struct Process(Child);

impl Process {
    fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.0);
        kill_process(pid, signal).unwrap();
    }

    async fn ended(&mut self) -> Option<i32> {
        let waiting = async {
            loop {
                if let Some(status) = self.0.try_wait().unwrap() {
                    return status.code();
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(DEADLINE * 3, waiting).await.unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // it may have ended already
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

fn run(file: &Path, further: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_counterfoil-proxy"))
        .arg("--config")
        .arg(file)
        .args(further)
        .output()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_configuration_ends_with_64_and_says_why() {
    let ca = Arc::new(Ca::new());
    let control = Control::start(&ca, &shop_bundle(CART, free().await)).await;
    let disk = Disk::new(&control, &ca).await;
    assert_eq!(run(&disk.config(), &["--check"]).status.code(), Some(0));
    let text = std::fs::read_to_string(disk.config()).unwrap();
    std::fs::write(disk.config(), text.replace("workers = 2", "workers = 0")).unwrap();
    for further in [&["--check"][..], &[]] {
        let output = run(&disk.config(), further);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(64), "{message}");
        for part in ["proxy.toml", "workers = 0", "from 1 to 64"] {
            assert!(message.contains(part), "{part} in {message}");
        }
    }
    assert_eq!(run(Path::new("/nowhere.toml"), &[]).status.code(), Some(64));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_that_a_proxy_needs_to_join_are_read_before_a_port_is_bound() {
    let ca = Arc::new(Ca::new());
    let control = Control::start(&ca, &shop_bundle(CART, free().await)).await;
    let disk = Disk::new(&control, &ca).await;
    let at = |name: &str| disk.directory.path().join(name);
    let _held = TcpListener::bind(disk.outbound).await.unwrap();
    let refused = |key: &str, file: &str| {
        let output = run(&disk.config(), &[]);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(64), "{message}");
        for part in [key, at(file).to_str().unwrap()] {
            assert!(message.contains(part), "{part} in {message}");
        }
    };
    for content in [None, Some(" \n")] {
        std::fs::remove_file(at("token")).unwrap();
        if let Some(text) = content {
            std::fs::write(at("token"), text).unwrap();
        }
        refused("join_token_file", "token");
        std::fs::write(at("token"), TOKEN).unwrap();
    }
    std::fs::write(at("roots.pem"), "no certificate").unwrap();
    refused("roots_file", "roots.pem");
    std::fs::remove_file(at("roots.pem")).unwrap();
    refused("roots_file", "roots.pem");
    // no join could do without a token when what is kept cannot be used
    std::fs::write(at("roots.pem"), ca.roots_pem()).unwrap();
    std::fs::remove_file(at("token")).unwrap();
    std::fs::create_dir(at("state")).unwrap();
    std::fs::write(at("state").join("svid.json"), "{}").unwrap();
    refused("join_token_file", "token");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_joined_needs_no_token_any_more() {
    let ca = Arc::new(Ca::new());
    let control = Control::start(&ca, &shop_bundle(CART, free().await)).await;
    let disk = Disk::new(&control, &ca).await;
    let proxy = disk.start();
    disk.until("/ready", 200).await;
    drop(proxy);
    std::fs::remove_file(disk.directory.path().join("token")).unwrap();
    assert_eq!(run(&disk.config(), &["--check"]).status.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_go_on_while_the_disk_is_full_and_the_logs_are_too() {
    let ca = Arc::new(Ca::new());
    let app = app::start(app::echo()).await;
    let cart = Setup::new(CART, app).start(&ca);
    cart.policy.put(Policy::compile(cart_bundle()).unwrap());
    let control = Control::start(&ca, &shop_bundle(CART, cart.inbound)).await;
    let disk = Disk::new(&control, &ca).await;
    let mut proxy = disk.start_on_a_full_disk();
    disk.until("/ready", 200).await;
    for call in 0..200 {
        let answer = ask(disk.outbound, &get("cart", &format!("/carts/{call}"))).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
    let metrics = disk.until("/metrics", 200).await;
    assert!(
        !metrics.contains("counterfoil_proxy_entries_dropped_total 0\n"),
        "{metrics}"
    );
    proxy.signal(Signal::TERM);
    assert_eq!(proxy.ended().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_in_use_is_named_and_ends_with_1() {
    let ca = Arc::new(Ca::new());
    let control = Control::start(&ca, &shop_bundle(CART, free().await)).await;
    let disk = Disk::new(&control, &ca).await;
    let _held = TcpListener::bind(disk.outbound).await.unwrap();
    let output = run(&disk.config(), &[]);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains(&disk.outbound.to_string()), "{message}");
    assert!(message.contains("outbound_listen"), "{message}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_joins_pulls_serves_and_starts_again_without_control() {
    let ca = Arc::new(Ca::new());
    let app = app::start(app::echo()).await;
    let cart = Setup::new(CART, app).start(&ca);
    cart.policy.put(Policy::compile(cart_bundle()).unwrap());
    let control = Control::start(&ca, &shop_bundle(CART, cart.inbound)).await;
    let disk = Disk::new(&control, &ca).await;

    let mut proxy = disk.start();
    disk.until("/ready", 200).await;
    let answer = ask(disk.outbound, &get("cart", "/carts/1")).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let metrics = disk.until("/metrics", 200).await;
    let line = "counterfoil_proxy_calls_total{side=\"client\",outcome=\"ok\"} 1\n";
    assert!(metrics.contains(line), "{metrics}");
    let polling = async {
        while control.seen.not_modified.load(Ordering::Relaxed) == 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(DEADLINE * 2, polling).await.unwrap();
    assert_eq!(
        control.seen.bundles.load(Ordering::Relaxed),
        1,
        "the ETag saves the body"
    );

    // the hard way out, and back without control
    proxy.signal(Signal::KILL);
    proxy.ended().await;
    control.task.abort();
    let proxy = disk.start();
    disk.until("/ready", 200).await;
    let answer = ask(disk.outbound, &get("cart", "/carts/2")).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert_eq!(
        control.seen.svids.load(Ordering::Relaxed),
        1,
        "the SVID was kept"
    );
    drop(proxy);

    let client = wait_for(&disk.spool(), 2).await;
    let server = wait_for(&cart.books(), 2).await;
    for (client, server) in client.iter().zip(&server) {
        agreed(client, server);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bundle_that_could_not_be_kept_is_kept_as_soon_as_it_can_be() {
    let ca = Arc::new(Ca::new());
    let control = Control::start(&ca, &shop_bundle(CART, free().await)).await;
    let disk = Disk::new(&control, &ca).await;
    let state = disk.directory.path().join("state");
    // a folder where the file is to be written first
    std::fs::create_dir_all(state.join("bundle.new")).unwrap();
    let _proxy = disk.start();
    disk.until("/ready", 200).await;
    assert!(!state.join("bundle").exists());
    std::fs::remove_dir(state.join("bundle.new")).unwrap();
    let looking = async {
        while !state.join("bundle").exists() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(DEADLINE, looking).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn before_it_has_joined_a_proxy_lives_but_is_not_ready_and_ends_when_told() {
    let ca = Arc::new(Ca::new());
    let control = Control::start(&ca, &shop_bundle(CART, free().await)).await;
    control.task.abort();
    let disk = Disk::new(&control, &ca).await;
    let mut proxy = disk.start();
    disk.until("/healthz", 200).await;
    let answer = disk.until("/ready", 503).await;
    assert!(answer.contains("joining"), "{answer}");
    proxy.signal(Signal::TERM);
    assert_eq!(proxy.ended().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_bundles_and_controls_health_are_in_the_books() {
    let ca = Arc::new(Ca::new());
    let mut control = Control::start(&ca, &shop_bundle(CART, free().await)).await;
    let disk = Disk::new(&control, &ca).await;
    let rows = |table, fields: &[u16]| rows(&disk.spool(), table, fields);
    let mut proxy = disk.start();
    disk.until("/ready", 200).await;
    until("a held poll", || {
        control.seen.held.load(Ordering::Relaxed) == 1
    })
    .await;
    assert_eq!(
        rows(TableId::CertRotations, &[6, 7, 8, 9, 16]),
        [[SHOP, "first", "1", "first", "success"]]
    );
    let acks = || rows(TableId::BundleAcks, &[5, 7, 8, 9, 11]);
    assert_eq!(acks(), [[SHOP, "4", "applied", "-", "control"]]);
    proxy.signal(Signal::KILL);
    proxy.ended().await;

    control.kill().await;
    let mut proxy = disk.start();
    disk.until("/ready", 200).await;
    let line = "counterfoil_proxy_bundle_polls_failed_total 0\n";
    let failing = async { while disk.until("/metrics", 200).await.contains(line) {} };
    tokio::time::timeout(DEADLINE, failing).await.unwrap();
    proxy.signal(Signal::TERM);
    assert_eq!(proxy.ended().await, Some(0));
    assert_eq!(rows(TableId::CertRotations, &[16]).len(), 1, "it was kept");
    let acks = acks();
    assert_eq!(acks[1..], [[SHOP, "4", "applied", "-", "disk"]]);
    // component, reporter, ok, up, class of the failure; the open slot is written at the end
    let health = rows(TableId::ControlHealth, &[5, 6, 9, 11, 13]);
    assert!(!health.is_empty());
    for row in health {
        assert_eq!(row, ["control", "proxy", "0", "false", "unreachable"]);
    }
}
