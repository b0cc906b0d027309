//! Targets that a profile describes, and findings that go into the books.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use counterfoil_conform::{
    BooksConfig, BooksError, Finding, Outcome, Part, Profile, Settings, World, keep, run, run_id,
    select,
};
use counterfoil_proxy::Config;
use counterfoil_trust::token::TokenSigner;
use counterfoil_trust::{Identity, Svid, TrustRoots};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

use crate::collector;
use crate::own::{PATIENCE, failures};
use crate::stand_in::{CALLER, StandIn};

/// An authority whose certificate and key lie in files.
struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(folder: &Path) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let pem = params.self_signed(&key).unwrap().pem();
        std::fs::write(folder.join("ca.pem"), &pem).unwrap();
        std::fs::write(folder.join("ca.key"), key.serialize_pem()).unwrap();
        Self {
            pem,
            issuer: Issuer::new(params, key),
        }
    }

    fn issue(&self, id: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ClientAuth,
            ExtendedKeyUsagePurpose::ServerAuth,
        ];
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2100, 1, 1);
        let chain = params.signed_by(&key, &self.issuer).unwrap().pem();
        (chain, key.serialize_pem())
    }

    fn identity(&self, id: &str) -> Identity {
        let (chain, key) = self.issue(id);
        let roots = TrustRoots::from_pem(&self.pem).unwrap();
        Identity::new(Svid::from_pem(&chain, &key).unwrap(), roots)
    }
}

/// A target of an authority of its own, whose application the tool plays, and its profile.
struct Described {
    profile: PathBuf,
    address: String,
    _stand_in: StandIn,
    _world: World,
    folder: tempfile::TempDir,
}

/// An address on which nobody listens.
fn free() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

impl Described {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new(folder.path());
        let mut world = World::prepare().await.unwrap();
        let signer = TokenSigner::generate().unwrap();
        std::fs::write(folder.path().join("token.key"), signer.to_pem()).unwrap();
        let app = free();
        let mut parts = world.parts().unwrap();
        for part in &mut parts {
            own(part, &authority, &signer, &app);
        }
        let configs = parts
            .each_ref()
            .map(|part| Config::load(&part.config).unwrap());
        let issuer = parts[0].rights.tokens.as_ref().unwrap().issuer.clone();
        world.let_go();
        let stand_in = StandIn::start(parts, &[]).await;
        let text = format!(
            "spiffe_id = \"{}\"\nroots_file = \"ca.pem\"\nlogs = []\n\n\
             [client]\nspiffe_id = \"{CALLER}\"\nca_cert_file = \"ca.pem\"\nca_key_file = \"ca.key\"\n\n\
             [calls]\nhost = \"callee\"\nallowed = \"GET /conform/echo/1\"\n\
             upload = \"POST /conform/upload\"\ndenied = \"GET /conform/secret\"\n\
             undeclared = \"GET /conform/nothing\"\nreset = \"GET /conform/reset\"\n\
             hang = \"GET /conform/hang\"\ntimeout_s = 2\n\n\
             [app]\nlisten = \"{app}\"\n\n\
             [outbound]\naddress = \"{}\"\nhost = \"callee\"\n\n\
             [tokens]\nkey_file = \"token.key\"\nissuer = \"{issuer}\"\napi = \"conform-tokens\"\n\
             scope = \"echoByToken\"\ncall = \"GET /conform/token\"\nleeway_s = 5\n",
            configs[0].spiffe_id, configs[1].outbound_listen,
        );
        let profile = folder.path().join("profile.toml");
        std::fs::write(&profile, text).unwrap();
        Self {
            profile,
            address: configs[0].inbound_listen.to_string(),
            _stand_in: stand_in,
            _world: world,
            folder,
        }
    }

    /// What is said when `from` of the profile is `to`.
    async fn refused(&self, from: &str, to: &str) -> String {
        let text = std::fs::read_to_string(&self.profile).unwrap();
        assert!(text.contains(from), "{from}");
        let file = self.folder.path().join("bad.toml");
        std::fs::write(&file, text.replacen(from, to, 1)).unwrap();
        let error = Profile::load(&file, &self.address, None).await.unwrap_err();
        error.to_string()
    }
}

fn own(part: &mut Part, authority: &Authority, signer: &TokenSigner, app: &str) {
    let text = std::fs::read_to_string(&part.config).unwrap();
    let before = Config::load(&part.config).unwrap().app_address.to_string();
    std::fs::write(&part.config, text.replace(&before, app)).unwrap();
    let id = part.identity.current().spiffe_id().as_str().to_owned();
    part.identity = authority.identity(&id);
    if let Some(tokens) = &mut part.rights.tokens {
        tokens.keys = vec![signer.public().clone()];
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_profile_is_all_that_a_target_needs_and_what_it_lacks_is_skipped_with_its_reason() {
    let described = Described::start().await;
    let rig = Profile::load(&described.profile, &described.address, None)
        .await
        .unwrap();
    let checks = select(
        &[
            "T01", "T06", "T09", "J01", "J13", "J16", "P01", "S01", "H01", "A01", "A07",
        ]
        .map(str::to_owned),
    )
    .unwrap();
    let findings = run(&Arc::new(rig), &checks, Settings::default(), |_| {})
        .await
        .unwrap();
    assert_eq!(
        failures(&findings),
        [
            "T09 skipped: the profile has no [outbound] with an impostor",
            "J16 skipped: the profile names no revoked token",
            "A01 skipped: the profile has no [books]",
            "A07 skipped: the profile has no [collector]",
        ]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ready_certificates_do_for_a_ca_but_for_what_only_a_ca_can_make() {
    let described = Described::start().await;
    let authority = std::fs::read_to_string(described.folder.path().join("ca.key")).unwrap();
    let key = KeyPair::from_pem(&authority).unwrap();
    let pem = std::fs::read_to_string(described.folder.path().join("ca.pem")).unwrap();
    let authority = Authority {
        issuer: Issuer::from_ca_cert_pem(&pem, key).unwrap(),
        pem,
    };
    let (chain, key) = authority.issue(CALLER);
    std::fs::write(described.folder.path().join("good.pem"), chain).unwrap();
    std::fs::write(described.folder.path().join("good.key"), key).unwrap();
    let text = std::fs::read_to_string(&described.profile).unwrap();
    let text = text.replace("ca_cert_file = \"ca.pem\"", "cert_file = \"good.pem\"");
    let text = text.replace("ca_key_file = \"ca.key\"", "key_file = \"good.key\"");
    std::fs::write(&described.profile, text).unwrap();
    let rig = Profile::load(&described.profile, &described.address, None)
        .await
        .unwrap();
    let checks = select(&["T02", "T03", "T04", "P04"].map(str::to_owned)).unwrap();
    let findings = run(&Arc::new(rig), &checks, Settings::default(), |_| {})
        .await
        .unwrap();
    let expected = "T04 skipped: the profile has no CA to make a certificate \"expired\" with";
    assert_eq!(failures(&findings), [expected]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_profile_is_refused_with_file_key_and_what_it_should_be() {
    let described = Described::start().await;
    for (from, to, expected) in [
        ("host = \"callee\"", "host = 1", "host = 1"),
        ("[app]", "colour = 1\n[app]", "unknown field `colour`"),
        (
            "GET /conform/echo/1",
            "/conform/echo/1",
            "calls.allowed = /conform/echo/1: must be a method and a path",
        ),
        (
            "spiffe_id = \"spiffe://",
            "spiffe_id = \"http://",
            "spiffe_id = http://",
        ),
        (
            "ca_key_file = \"ca.key\"",
            "",
            "client = spiffe://conform.test/workload/caller: must be either ca_cert_file",
        ),
        (
            "roots_file = \"ca.pem\"",
            "roots_file = \"ca.key\"",
            "roots_file = ca.key: must be a file of PEM certificates",
        ),
        (
            "key_file = \"token.key\"",
            "key_file = \"ca.pem\"",
            "tokens.key_file = ca.pem: must be a file with a P-256",
        ),
        ("roots_file = \"ca.pem\"", "roots_file = \"none\"", "none"),
    ] {
        let message = described.refused(from, to).await;
        assert!(message.contains(expected), "{to}: {message}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_does_not_serve_a_good_call_gives_no_findings() {
    let described = Described::start().await;
    let nobody = free();
    let rig = Profile::load(&described.profile, &nobody, None)
        .await
        .unwrap();
    let checks = select(&["T02".to_owned()]).unwrap();
    let error = run(&Arc::new(rig), &checks, Settings::default(), |_| {})
        .await
        .unwrap_err();
    let message = error.to_string();
    assert!(
        message.contains("does not serve the allowed call before the checks"),
        "{message}"
    );
    assert!(message.contains(&nobody), "{message}");
}

fn some_findings() -> Vec<Finding> {
    let finding = |check, outcome| Finding {
        check,
        title: "a title",
        severity: counterfoil_conform::Severity::High,
        outcome,
        sent: "something".to_owned(),
        saw: "what came of it".to_owned(),
        duration_ms: 1,
        checked_at: counterfoil_entry::clock::wall(),
    };
    vec![finding("T01", Outcome::Pass), finding("P01", Outcome::Fail)]
}

/// The books' configuration of an auditor of this world.
fn books(world: &World, folder: &Path, collector: &str) -> PathBuf {
    let proxy = &world.proxies()[0].config;
    let (root, config) = (proxy.parent().unwrap(), Config::load(proxy).unwrap());
    let text = format!(
        "collector = \"{collector}\"\ncollector_spiffe_id = \"{}\"\nspool_dir = {:?}\n\n\
         [identity]\nspiffe_id = \"spiffe://conform.test/workload/auditor\"\ncontrol = \"{}\"\n\
         roots_pem_file = {:?}\njoin_token_file = {:?}\nstate_dir = {:?}\n",
        World::collector_id(),
        folder.join("spool"),
        config.control,
        root.join("roots.pem"),
        root.join("join-token"),
        folder.join("state"),
    );
    let file = folder.join("books.toml");
    std::fs::write(&file, text).unwrap();
    file
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn findings_are_in_the_books_when_they_are_kept_and_wait_in_the_spool_until_then() {
    let mut world = World::prepare().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    world.let_go();
    let nobody = BooksConfig::load(&books(&world, folder.path(), &free())).unwrap();
    let kept = keep(&nobody, &run_id(), "self", &some_findings()).await;
    assert!(matches!(kept, Err(BooksError::Kept(_))), "{kept:?}");
    let stored = collector::start(&mut world);
    let (_, address, _) = world.collector();
    let config = BooksConfig::load(&books(&world, folder.path(), &address.to_string())).unwrap();
    let until = tokio::time::Instant::now() + PATIENCE;
    while let Err(error) = keep(&config, &run_id(), "self", &some_findings()).await {
        assert!(tokio::time::Instant::now() < until, "{error}");
    }
    // those of this run, and those that waited
    let writer = "spiffe://conform.test/workload/auditor#conform";
    let rows = stored(writer).unwrap();
    assert!(rows >= 4 && rows.is_multiple_of(2), "{rows}");
}

#[test]
fn a_bad_configuration_of_the_books_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("books.toml");
    std::fs::write(&file, "collector = 1\n").unwrap();
    let error = BooksConfig::load(&file).unwrap_err();
    assert!(
        error.is_config() && error.to_string().contains("books.toml"),
        "{error}"
    );
}
