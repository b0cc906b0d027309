use super::*;
use crate::fixture::ACCOUNTS;

/// Reads the small bank's document after one replacement; the replaced text must be there.
fn changed(from: &str, to: &str) -> Result<Document, DocumentError> {
    assert!(ACCOUNTS.contains(from), "{from} is not in the document");
    parse("accounts.yaml", &ACCOUNTS.replacen(from, to, 1), "ops_90d")
}

fn names(document: &Document) -> Vec<&str> {
    let operations = document.rights.operations.iter();
    operations.map(|o| o.operation.as_str()).collect()
}

#[test]
fn a_document_gives_its_operations_with_class_and_scopes() {
    let document = parse("accounts.yaml", ACCOUNTS, "ops_90d").unwrap();
    assert_eq!(document.service.as_deref(), Some("ledger"));
    assert_eq!(document.owner_team.as_deref(), Some("core"));
    assert_eq!(document.access, None);
    assert_eq!(document.openapi, "3.0.3");
    assert_eq!(document.rights.api_version, "1.2");
    let operations: Vec<_> = document
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
        "info": {"title": " rates ", "version": "2"},
        "x-counterfoil": {"protocol": "grpc", "base_path": "/fx/", "access": "both"},
        "paths": {"/rates.Rates/Quote": {"post": {"operationId": "Quote"}}}
    }"#;
    for file in ["rates.json", "rates", "rates.JSON"] {
        let rates = parse(file, json, "ops_90d").unwrap();
        assert_eq!(rates.rights.api, "rates");
        assert_eq!(rates.rights.protocol.as_deref(), Some("grpc"));
        assert_eq!(rates.rights.access, Access::Both);
        assert_eq!(rates.rights.operations[0].route, "/fx/rates.Rates/Quote");
        assert_eq!(rates.rights.operations[0].retention_class, "ops_90d");
    }
    let without_paths = "openapi: 3.1.0\ninfo: {title: hooks, version: 1.10}\nwebhooks: {}\n";
    let hooks = parse("h.yml", without_paths, "ops_90d").unwrap();
    assert!(hooks.rights.operations.is_empty());
    assert_eq!(hooks.rights.api_version, "1.10", "as it is written");
}

#[test]
fn what_the_mesh_does_not_need_may_be_as_it_likes() {
    let document = r##"openapi: 3.0.0
info: {title: loose, version: 2021-09-24, x-logo: {}}
servers: [{url: "https://{host}/v1", variables: {host: {default: bank.test}}}]
tags: [1, 2]
paths:
  /a/{id}:
    parameters:
      - {name: id, in: path, required: true, schema: {type: integer, maximum: 99999999999999999999999}}
    get:
      operationId: a
      deprecated: true
      responses:
        201: {$ref: "#/components/responses/Alias/content"}
        200: {description: an unquoted status, content: {x: {schema: {$ref: "#/components/schemas/Node"}}}}
        default: {$ref: "./other.yaml#/Problem"}
        404:
          description: ~
          content: {x: {example: {$ref: "#/no/reference"}, examples: {one: {value: {$ref: "#/no"}}}}}
x-anything: {$ref: "#/nowhere"}
components:
  responses:
    Alias: {$ref: "#/components/responses/Real"}
    Real: {description: x, content: {}}
  schemas:
    Node: {type: object, properties: {next: {$ref: "#/components/schemas/Node"}, min: {minimum: -.inf}}}
"##;
    let document = parse("loose.yaml", document, "ops_90d").unwrap();
    assert_eq!(names(&document), ["a"]);
    assert_eq!(document.rights.api_version, "2021-09-24");
    let with_bom = format!("\u{feff}{}", ACCOUNTS.replace('\n', "\r\n"));
    assert_eq!(
        names(&parse("b.yaml", &with_bom, "ops_90d").unwrap()).len(),
        4
    );
}

#[test]
fn references_to_path_items_and_parameters_are_followed() {
    let document = r##"openapi: 3.1.0
info: {title: refs, version: "1"}
paths:
  /a/{id}:
    $ref: "#/components/pathItems/one"
    delete: {operationId: drop}
  /b/{id}:
    $ref: "#/paths/~1a~1%7Bid%7D"
components:
  pathItems:
    one:
      $ref: "#/components/pathItems/two"
      parameters: [{$ref: "#/components/parameters/first"}]
    two:
      get: {}
  parameters:
    first: {$ref: "#/components/parameters/second"}
    second: {name: id, in: path, required: true}
"##;
    let error = parse("refs.yaml", document, "ops_90d").unwrap_err();
    assert_eq!(
        error.to_string(),
        "refs.yaml:6: paths./a/{id}.delete.operationId: another operation is named drop too",
        "both paths have it"
    );
    let unnamed = document.replace("{operationId: drop}", "{}");
    let document = parse("refs.yaml", &unnamed, "ops_90d").unwrap();
    assert_eq!(
        names(&document),
        [
            "DELETE /a/{id}",
            "GET /a/{id}",
            "DELETE /b/{id}",
            "GET /b/{id}"
        ]
    );
}

#[test]
fn a_reference_that_goes_round_or_nowhere_refuses_the_document_with_its_line() {
    let document = |paths: &str, rest: &str| {
        format!(
            "openapi: 3.1.0\ninfo: {{title: r, version: '1'}}\npaths:\n{paths}\ncomponents:\n{rest}\n"
        )
    };
    for (paths, rest, expected) in [
        (
            "  /a: {$ref: '#/paths/~1b'}\n  /b: {$ref: '#/paths/~1a'}",
            "  {}",
            "leads back to itself",
        ),
        (
            "  /a: {$ref: '#/paths/~1a'}",
            "  {}",
            "r.yaml:4: paths./a: the $ref #/paths/~1a leads back",
        ),
        (
            "  /a: {$ref: '#/no'}",
            "  {}",
            "r.yaml:4: paths./a: the $ref #/no leads nowhere",
        ),
        (
            "  /a: {$ref: 'b.yaml'}",
            "  {}",
            "r.yaml:4: paths./a: the $ref b.yaml leads outside",
        ),
        (
            "  /a: {$ref: 7}",
            "  {}",
            "r.yaml:4: paths./a: a $ref is a text",
        ),
        (
            "  /a: {$ref: '#/openapi'}",
            "  {}",
            "r.yaml:1: openapi: it is no object",
        ),
        (
            "  /a:\n    get: {}\n    $ref: '#/paths/~1b'\n  /b:\n    get: {operationId: b}",
            "  {}",
            "r.yaml:8: paths./b.get: the path item and what its $ref leads to both have it",
        ),
        (
            "  /a:\n    get:\n      parameters: [{$ref: 'b.yaml#/id'}]",
            "  {}",
            "r.yaml:6: paths./a.get.parameters: the $ref b.yaml#/id leads outside",
        ),
        (
            "  {}",
            "  schemas:\n    A:\n      allOf:\n        - $ref: '#/components/schemas/Gone'",
            "r.yaml:9: components.schemas.A.allOf.0: the $ref #/components/schemas/Gone leads nowhere",
        ),
        (
            "  {}",
            "  responses:\n    A: {$ref: '#/components/responses/B'}\n    B: {$ref: '#/components/responses/A'}",
            "leads back to itself",
        ),
    ] {
        let error = parse("r.yaml", &document(paths, rest), "ops_90d").unwrap_err();
        assert!(
            error.to_string().contains(expected),
            "{paths}{rest}: {error}"
        );
    }
}

/// What is replaced in the small bank's document, by what, and what is said then.
const BAD: &[(&str, &str, &str)] = &[
    ("3.0.3", "2.0.0", ":1: openapi: 2.0.0"),
    ("3.0.3", "3.2.0", ":1: openapi: 3.2.0 is not supported"),
    ("title: accounts", "title: \"\"", ":3: info.title: "),
    ("title: accounts", "title: [a]", ":3: info.title: "),
    (
        "class: sox_7y",
        "class: long",
        ":8: x-counterfoil.class: long",
    ),
    (
        "service: ledger",
        "servce: ledger",
        ":5: x-counterfoil: unknown field",
    ),
    (
        "owner_team: core",
        "access: all",
        ":5: x-counterfoil: unknown variant",
    ),
    (
        "scopes: [sox]",
        "scopes: ['']",
        ":9: x-counterfoil.scopes: scopes are",
    ),
    (
        "  /accounts:\n",
        "  accounts:\n",
        ":11: paths.accounts: a path begins with /",
    ),
    (
        "/accounts/{id}:",
        "/accounts/{id}.json:",
        ":16: paths./accounts/{id}.json: a parameter takes",
    ),
    (
        "/accounts/{id}:",
        "/accounts/../{id}:",
        ":19: paths./accounts/../{id}.get: the route",
    ),
    ("/health:", "/accounts/{other}:", "other is not declared"),
    (
        "    delete:",
        "    delet:",
        ":22: paths./accounts/{id}.delet: it is neither a method",
    ),
    (
        "    delete:",
        "    x-counterfoil: {open: true}\n    delete:",
        ":22: paths./accounts/{id}.x-counterfoil: it belongs",
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
        ":18: paths./accounts/{id}.parameters.0: the $ref",
    ),
    (
        "name: id, in: path",
        "name: other, in: path",
        "path parameter id is not declared",
    ),
    (
        "operationId: listAccounts\n      responses:\n        \"200\": {description: all of them}",
        "operationId: listAccounts",
        ":12: paths./accounts.get: it has no responses",
    ),
    ("/health:", "/accounts:", "accounts.yaml:27"),
    ("paths:", "paths:\n  /accounts: {}", "accounts.yaml:"),
    ("info:", "info: [", "accounts.yaml:"),
];

#[test]
fn a_bad_operation_refuses_the_whole_document_and_says_where() {
    for (from, to, place) in BAD {
        let error = changed(from, to).unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with("accounts.yaml"), "{to}: {text}");
        assert!(text.contains(place), "{to}: {text}");
    }
    let twice = "openapi: 3.0.0\ninfo: {title: t, version: '1'}\npaths:\n  /a/{x}: &p\n    parameters: [{name: x, in: path}]\n    get: {responses: {default: {}}}\n  /a/{y}:\n    parameters: [{name: y, in: path}]\n    get: {operationId: other, responses: {default: {}}}\n";
    let error = parse("t.yaml", twice, "ops_90d").unwrap_err().to_string();
    assert!(error.starts_with("t.yaml:9: paths./a/{y}.get: "), "{error}");
    assert!(error.contains("same method and path"), "{error}");
}

#[test]
fn broken_json_is_refused_with_its_line_and_a_key_stands_there_once() {
    for (text, expected) in [
        ("{\n \"openapi\": \"3.1.0\",\n}", "a.json:3: "),
        ("", "a.json"),
        ("[]", "a.json:1: openapi"),
        (
            "{\"openapi\": \"3.1.0\", \"info\": {\"title\": \"t\"}}",
            "a.json:1: info.version",
        ),
        (
            "{\n\"paths\": {},\n\"paths\": {}}",
            "a.json:3: the key paths stands there twice",
        ),
    ] {
        let error = parse("a.json", text, "ops_90d").unwrap_err().to_string();
        assert!(error.starts_with(expected), "{text}: {error}");
    }
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(parse("a.json", &deep, "ops_90d").is_err());
}

#[test]
fn a_document_that_unfolds_without_end_is_refused() {
    let mut bomb = String::from("openapi: 3.0.0\na0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..9 {
        let last = level - 1;
        let aliases = vec![format!("*a{last}"); 10].join(", ");
        bomb.push_str(&format!("a{level}: &a{level} [{aliases}]\n"));
    }
    let error = parse("bomb.yaml", &bomb, "ops_90d")
        .unwrap_err()
        .to_string();
    assert!(error.starts_with("bomb.yaml:"), "{error}");
    let round = "openapi: 3.0.0\na: &a\n  b: *a\n";
    assert!(parse("round.yaml", round, "ops_90d").is_err());
    for (open, close) in [("[", "]"), ("{a: ", "}")] {
        let deep = format!(
            "openapi: 3.0.0\nx: {}{}\n",
            open.repeat(5_000),
            close.repeat(5_000)
        );
        assert!(parse("deep.yaml", &deep, "ops_90d").is_err());
    }
    let mut block = String::from("openapi: 3.0.0\n");
    for level in 0..1_000 {
        block.push_str(&format!("{}a:\n", " ".repeat(level)));
    }
    assert!(parse("deep.yaml", &block, "ops_90d").is_err());
    let large = format!("{ACCOUNTS}# {}\n", "x".repeat(8 << 20));
    let error = parse("large.yaml", &large, "ops_90d").unwrap_err();
    assert!(error.to_string().contains("bytes, more than"), "{error}");
}
