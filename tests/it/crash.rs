//! `kill -9` of each part, and of all of them.

use crate::world::{Demo, eventually, is_running, number, rows, verify};

fn complete(demo: &mut Demo) {
    let said = demo.finish_well();
    let data = demo.data().to_owned();
    let twice = "select count(*) from (select writer, epoch, stream, seq from entries \
                 group by 1, 2, 3, 4 having count(*) > 1)";
    assert_eq!(number(&data, twice), 0, "{said}");
    let missing = rows(&data, "select * from completeness where missing > 0");
    assert!(missing.is_empty(), "{missing:?}\n{said}");
    let policy = data.join("policy.toml");
    let (code, verdict) = verify(&data, &["--policy", policy.to_str().unwrap()]);
    assert_eq!(code, 0, "{verdict}\n{said}");
}

#[test]
fn a_killed_collector_loses_nothing_and_repeats_nothing() {
    let mut demo = Demo::start(&["--for", "14s", "--rate", "5"]);
    let psql = demo.psql();
    eventually("entries arrive", 60, || {
        (psql.number("select count(*) from entries") > 50).then_some(())
    });
    let killed = demo.kill(&[" collector "]);
    eventually("it is started again", 30, || {
        demo.child_id(&[" collector "]).filter(|id| *id != killed)
    });
    complete(&mut demo);
    let unmatched = "select count(*) from calls where due and not (matched and agrees)";
    assert_eq!(number(demo.data(), unmatched), 0);
    assert_eq!(
        number(
            demo.data(),
            "select count(*) from gaps where closed_at is null"
        ),
        0
    );
}

#[test]
fn a_killed_proxy_has_every_answered_call_in_the_books() {
    let mut demo = Demo::start(&["--for", "14s", "--rate", "5"]);
    let psql = demo.psql();
    let victim = "productcatalogservice";
    eventually("calls arrive", 60, || {
        let sql = format!("select count(*) from calls where destination = '{victim}' and matched");
        (psql.number(&sql) > 10).then_some(())
    });
    let killed = demo.kill(&["counterfoil-proxy", victim]);
    eventually("it is started again", 30, || {
        demo.child_id(&["counterfoil-proxy", victim])
            .filter(|id| *id != killed)
    });
    complete(&mut demo);
    // A caller that had its answer whole proves that the callee's entry was written before.
    let lost = format!(
        "select count(*) from calls where destination = '{victim}' and outcome = 'ok' and not matched"
    );
    assert_eq!(number(demo.data(), &lost), 0);
    let recovered = rows(
        demo.data(),
        "select * from statements where kind = 'recovery'",
    );
    assert_eq!(recovered.len(), 1, "{recovered:?}");
    assert_eq!(
        number(
            demo.data(),
            "select count(*) from gaps where closed_at is null"
        ),
        0
    );
}

#[test]
fn a_directory_left_by_kill_9_still_answers_and_verifies() {
    let mut demo = Demo::start(&["--rate", "5"]);
    let psql = demo.psql();
    let before = eventually("a seal has happened and more has come since", 90, || {
        let sealed = psql.number("select count(*) from entries where segment is not null");
        let open = psql.number("select count(*) from entries where segment is null");
        (sealed > 0 && open > 0).then(|| psql.number("select count(*) from entries"))
    });
    let children = demo.child_ids(&["--config"]);
    assert!(children.len() > 10, "{children:?}");
    demo.abandon();
    eventually("the children end with their parent", 5, || {
        (!children.iter().any(|id| is_running(*id))).then_some(())
    });
    assert!(number(demo.data(), "select count(*) from entries") >= before);
    let (code, verdict) = verify(demo.data(), &[]);
    assert_eq!(code, 0, "{verdict}");
}
