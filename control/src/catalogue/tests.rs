use super::*;
use crate::fixture::{ACCOUNTS, Folder, GRANTS, LEDGER, PORTAL, workloads};

fn id(text: &str) -> SpiffeId {
    SpiffeId::parse(text).unwrap()
}

/// Loads the small bank after one replacement in one file; the replaced text must be there.
fn changed(file: &str, from: &str, to: &str) -> Result<Catalogue, CatalogueError> {
    let folder = Folder::new();
    let text = fs::read_to_string(folder.path().join(file)).unwrap();
    assert!(text.contains(from), "{from} is not in {file}");
    folder.with(file, &text.replacen(from, to, 1)).load()
}

#[test]
fn a_document_gives_its_operations_with_class_and_scopes() {
    let catalogue = Folder::new().load().unwrap();
    let api = &catalogue.apis["accounts"];
    assert_eq!(api.server, Some(id(LEDGER)));
    assert_eq!(api.rights.api_version, "1.2");
    let operations: Vec<_> = api
        .rights
        .operations
        .iter()
        .map(|o| {
            let scopes = o.scopes.join("+");
            format!(
                "{} {} {} {} {scopes} {}",
                o.operation, o.method, o.route, o.retention_class, o.open
            )
        })
        .collect();
    assert_eq!(
        operations,
        [
            "listAccounts GET /accounts sox_7y sox false",
            "GET /accounts/{id} GET /accounts/{id} sox_7y sox false",
            "closeAccount DELETE /accounts/{id} pci_1y sox+pci false",
            "health GET /health ops_30d  true",
        ]
    );
}

#[test]
fn json_and_version_31_are_read_too() {
    let json = r#"{
        "openapi": "3.1.0",
        "info": {"title": "rates", "version": "2"},
        "x-counterfoil": {"protocol": "grpc", "base_path": "/fx/"},
        "paths": {"/rates.Rates/Quote": {"post": {"operationId": "Quote"}}}
    }"#;
    let text = workloads().replacen(
        "name = \"portal\"",
        "name = \"portal\"\napis = [\"rates\"]",
        1,
    );
    let folder = Folder::new()
        .with("apis/rates.json", json)
        .with("workloads.toml", &text);
    let catalogue = folder.load().unwrap();
    let rates = &catalogue.apis["rates"];
    assert_eq!(rates.server, Some(id(PORTAL)));
    assert_eq!(rates.rights.protocol.as_deref(), Some("grpc"));
    assert_eq!(rates.rights.operations[0].route, "/fx/rates.Rates/Quote");
    assert_eq!(rates.rights.operations[0].retention_class, "ops_90d");
}

#[test]
fn a_bad_operation_refuses_the_whole_document_and_says_where() {
    let file = "apis/accounts.yaml";
    for (from, to, place) in [
        ("3.0.3", "2.0.0", ":1: openapi: 2.0.0"),
        ("title: accounts", "title: \"\"", ":3: info.title: "),
        (
            "class: sox_7y",
            "class: long",
            ":7: x-counterfoil.class: long",
        ),
        (
            "service: ledger",
            "servce: ledger",
            ":5: x-counterfoil: unknown field",
        ),
        (
            "service: ledger",
            "service: nobody",
            ": x-counterfoil.service: service nobody",
        ),
        (
            "  /accounts:\n",
            "  accounts:\n",
            ":10: paths.accounts: a path begins with /",
        ),
        ("/accounts/{id}:", "/accounts/{id}.json:", "paths"),
        ("/accounts/{id}:", "/accounts/../{id}:", "cannot be matched"),
        ("/health:", "/accounts/{other}:", "other is not declared"),
        (
            "    delete:",
            "    delet:",
            ":21: paths./accounts/{id}.delet: it is neither a method",
        ),
        (
            "operationId: closeAccount",
            "operationId: 7",
            "delete.operationId: an operationId",
        ),
        (
            "operationId: closeAccount",
            "operationId: listAccounts",
            "named listAccounts too",
        ),
        (
            "{class: pci_1y, ",
            "{clas: pci_1y, ",
            "unknown field `clas`",
        ),
        (
            "#/components/parameters/id",
            "#/components/parameters/no",
            "leads nowhere",
        ),
        (
            "name: id, in: path",
            "name: other, in: path",
            "path parameter id is not declared",
        ),
        (
            "operationId: listAccounts\n      responses:\n        \"200\": {description: all of them}",
            "operationId: listAccounts",
            ":11: paths./accounts.get: it has no responses",
        ),
        ("paths:", "paths:\n  /accounts: {}", "accounts.yaml:"),
        ("info:", "info: [", "accounts.yaml:"),
    ] {
        let error = changed(file, from, to).unwrap_err();
        assert!(error.file.ends_with(file), "{to}: {error}");
        assert!(error.to_string().contains(place), "{to}: {error}");
    }
}

#[test]
fn a_document_that_unfolds_without_end_is_refused() {
    let mut bomb = String::from("openapi: 3.0.0\na0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..9 {
        let last = level - 1;
        let aliases = vec![format!("*a{last}"); 10].join(", ");
        bomb.push_str(&format!("a{level}: &a{level} [{aliases}]\n"));
    }
    let error = Folder::new()
        .with("apis/bomb.yaml", &bomb)
        .load()
        .unwrap_err();
    assert!(error.file.ends_with("apis/bomb.yaml"), "{error}");
    let deep = format!(
        "openapi: 3.0.0\nx: {}{}\n",
        "[".repeat(5_000),
        "]".repeat(5_000)
    );
    assert!(Folder::new().with("apis/deep.yaml", &deep).load().is_err());
    let large = format!("{ACCOUNTS}# {}\n", "x".repeat(4 << 20));
    let error = Folder::new()
        .with("apis/accounts.yaml", &large)
        .load()
        .unwrap_err();
    assert!(error.to_string().contains("bytes, more than"), "{error}");
}

#[test]
fn nobody_approves_his_own_grant() {
    for same in ["ann", " Ann", "ANN "] {
        let to = format!("approved_by = \"{same}\"");
        let error = changed("grants.toml", "approved_by = \"bob\"", &to).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("grants.toml:3: g-1: approved_by"),
            "{error}"
        );
    }
}

#[test]
fn a_bad_grant_refuses_the_whole_file() {
    for (from, to, reason) in [
        ("workload/portal", "workload/stranger", "is no workload"),
        ("workload/portal", "workload//portal", "empty"),
        ("api = \"accounts\"", "api = \"account\"", "no API account"),
        (
            "\"listAccounts\"",
            "\"listAcounts\"",
            "no operation listAcounts",
        ),
        (
            "[\"listAccounts\", \"GET /accounts/{id}\"]",
            "[]",
            "operations must not be empty",
        ),
        (
            "ticket = \"CHG-1\"",
            "ticket = \" \"",
            "ticket must not be empty",
        ),
        ("purpose", "porpose", "porpose"),
        ("expires = \"2100-01-01T00:00:00Z\"", "", "expires"),
        ("2100-01-01T00:00:00Z", "2100-01-01", "expires = 2100-01-01"),
        (
            "expires",
            "not_before = 2100-01-01T00:00:00Z\nexpires",
            "later than not_before",
        ),
        ("[[grant]]", "[[grant]\n", "grants.toml:2"),
    ] {
        let error = changed("grants.toml", from, to).unwrap_err();
        assert!(error.to_string().contains(reason), "{to}: {error}");
    }
    let twice = Folder::new()
        .with("grants.toml", &format!("{GRANTS}{GRANTS}"))
        .load();
    assert!(twice.unwrap_err().to_string().contains("twice"));
}

#[test]
fn a_star_means_every_operation_and_toml_dates_are_dates() {
    let all = "[\"*\"]";
    let some = "[\"listAccounts\", \"GET /accounts/{id}\"]";
    assert_eq!(
        changed("grants.toml", some, all).unwrap().grants["g-1"]
            .operations
            .len(),
        4
    );
    let dated = changed(
        "grants.toml",
        "\"2100-01-01T00:00:00Z\"",
        "2100-01-01T00:00:00Z",
    )
    .unwrap();
    assert_eq!(dated.grants, Folder::new().load().unwrap().grants);
    assert_eq!(
        dated.grants["g-1"].expires.to_string(),
        "2100-01-01T00:00:00.000000000Z"
    );
}

#[test]
fn a_bad_workload_refuses_the_whole_file() {
    for (from, to, reason) in [
        (
            "bank.test/workload/portal",
            "other.test/workload/portal",
            "trust domain bank.test",
        ),
        ("workload/portal", "workload/portal/", "empty"),
        ("workload/portal", "workload/ledger", "twice"),
        ("name = \"portal\"", "name = \"LEDGER\"", "twice"),
        ("name = \"portal\"", "name = \"a/b\"", "a name is"),
        ("127.0.0.1:17102", "127.0.0.1", "host:port"),
        ("team = \"web\"", "team = \"\"", "must not be empty"),
        ("team = \"web\"", "taem = \"web\"", "taem"),
        (
            "join_token_sha256 = \"",
            "join_token_sha256 = \"x",
            "64 hex digits",
        ),
        (
            "team = \"web\"",
            "team = \"web\"\napis = [\"gone\"]",
            "has the API gone",
        ),
        (
            "team = \"web\"",
            "team = \"web\"\napis = [\"accounts\"]",
            "is served by",
        ),
    ] {
        let error = changed("workloads.toml", from, to).unwrap_err();
        assert!(error.to_string().contains(reason), "{to}: {error}");
    }
}

#[test]
fn two_apis_of_one_workload_must_not_share_a_path() {
    let other = ACCOUNTS.replace("title: accounts", "title: others");
    let error = Folder::new()
        .with("apis/others.yaml", &other)
        .load()
        .unwrap_err();
    assert!(
        error.to_string().contains("same method and path"),
        "{error}"
    );
    let error = Folder::new()
        .with("apis/again.yaml", ACCOUNTS)
        .load()
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("another document has the API accounts"),
        "{error}"
    );
}
