//! Control as this project's own client meets it: joining, renewing, and polling on a kept
//! connection.

use counterfoil_entry::Hash;
use counterfoil_spool::join::{BundleLink, BundleQuery, IdentityConfig, join, renew_loop};

use super::*;

fn identity_config(control: &Running, folder: &std::path::Path) -> IdentityConfig {
    std::fs::write(folder.join("roots.pem"), &control.init.roots_pem).unwrap();
    std::fs::write(folder.join("token"), TOKEN).unwrap();
    IdentityConfig {
        spiffe_id: PORTAL.to_owned(),
        control: control.address.to_string(),
        control_spiffe_id: None,
        roots_pem_file: folder.join("roots.pem"),
        join_token_file: Some(folder.join("token")),
        state_dir: folder.join("state"),
    }
}

#[tokio::test]
async fn a_workload_joins_rotates_and_polls_with_its_own_client() {
    let control = Running::start_with(|config| config.svid_ttl_s = 10).await;
    let folder = tempfile::tempdir().unwrap();
    let config = identity_config(&control, folder.path());
    let spool = Spool::open(SpoolConfig {
        directory: folder.path().join("spool"),
        writer: Writer::parse(&format!("{PORTAL}#1")).unwrap(),
        size_max: 1 << 20,
        build: "test".to_owned(),
        config_sha256: Hash([0; 32]),
    })
    .unwrap();
    let mut lane = spool.lane(0);
    let identity = join(&config, &mut lane).await.unwrap();
    let first = identity.current();
    let mut link = BundleLink::new(identity.clone(), control.address.to_string(), None).unwrap();
    let query = BundleQuery {
        epoch: spool.epoch().0,
        build: "test".to_owned(),
        ..BundleQuery::default()
    };
    let fetched = link.poll(&query).await.unwrap().unwrap();
    let held = BundleQuery {
        etag: fetched.etag,
        wait_s: 1,
        ..query
    };
    assert_eq!(link.poll(&held).await.unwrap(), None);

    let stop = CancellationToken::new();
    let renewing = renew_loop(identity.clone(), config, lane, stop.clone());
    let renewing = tokio::spawn(renewing);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while identity.current().serial() == first.serial() {
        assert!(tokio::time::Instant::now() < deadline, "it is renewed");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    stop.cancel();
    renewing.await.unwrap();
    let left = first.not_after().since_ns(clock::wall());
    assert!(left > 0, "long before its end");
    assert_eq!(link.poll(&held).await.unwrap(), None);
    let rows = control.rows();
    let serials = rows.iter().map(|row| row.serial.as_deref());
    assert!(
        serials
            .flatten()
            .any(|serial| serial == identity.current().serial())
    );
    assert_eq!(
        spooled(&folder.path().join("spool"), "cert_rotations").len(),
        2
    );
    control.kill();
}
