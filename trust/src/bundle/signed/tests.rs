use counterfoil_entry::Time;

use super::*;
use crate::bundle::{Access, ApiRights, Grant, Instances, OperationRights, Workload};

fn id(name: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://bank.test/workload/{name}")).unwrap()
}

fn rights() -> Rights {
    let operation = OperationRights {
        operation: "readAccount".to_owned(),
        method: "GET".to_owned(),
        route: "/accounts/{id}".to_owned(),
        scopes: vec!["sox".to_owned()],
        retention_class: "sox_7y".to_owned(),
        open: false,
    };
    Rights {
        version: 7,
        audience: id("ledger"),
        issued_at: Time::from_ns(1_000),
        workload: Workload {
            app: "ledger".to_owned(),
            team: "core".to_owned(),
            site: Some("fra1".to_owned()),
            zone: None,
        },
        apis: vec![ApiRights {
            api: "accounts".to_owned(),
            api_version: "1.0".to_owned(),
            protocol: None,
            access: Access::Bundle,
            operations: vec![operation],
        }],
        grants: vec![Grant {
            grant_id: "g-1".to_owned(),
            consumer: id("portal"),
            api: "accounts".to_owned(),
            operation: "readAccount".to_owned(),
            not_before: None,
            expires: Some(Time::from_ns(i64::MAX)),
        }],
        candidate: None,
        tokens: None,
        consumers: vec![],
        peers: vec![],
        default_class: "ops_90d".to_owned(),
    }
}

fn endpoints() -> Endpoints {
    Endpoints {
        version: 9,
        audience: id("ledger"),
        instances: vec![Instances {
            name: "rates".to_owned(),
            spiffe_id: id("rates"),
            addresses: vec!["127.0.0.1:17101".to_owned()],
        }],
    }
}

struct Keys {
    governance: SealKey,
    control: SealKey,
}

impl Keys {
    fn new() -> Self {
        Self {
            governance: SealKey::generate().unwrap(),
            control: SealKey::generate().unwrap(),
        }
    }

    fn public(&self) -> BundleKeys {
        BundleKeys {
            governance: self.governance.public(),
            control: self.control.public(),
        }
    }

    fn seal(&self, rights: &Rights, endpoints: &Endpoints) -> Vec<u8> {
        SignedBundle::seal(rights, endpoints, &self.governance, &self.control).unwrap()
    }

    fn open(&self, body: &[u8]) -> Result<Bundle, BundleError> {
        SignedBundle::open(body, &self.public(), &id("ledger"))
    }
}

#[test]
fn a_sealed_bundle_opens_as_it_was_and_is_the_same_bytes_again() {
    let keys = Keys::new();
    let body = keys.seal(&rights(), &endpoints());
    let bundle = keys.open(&body).unwrap();
    assert_eq!(bundle.rights, rights());
    assert_eq!(bundle.endpoints, endpoints());
    assert_eq!(bundle.sha256, tree::sha256(&body));
    assert_eq!(keys.seal(&rights(), &endpoints()), body);
}

#[test]
fn the_control_key_cannot_sign_rights() {
    let keys = Keys::new();
    let forged = SignedBundle::seal(&rights(), &endpoints(), &keys.control, &keys.control).unwrap();
    assert!(matches!(
        keys.open(&forged),
        Err(BundleError::Signature("rights"))
    ));
    let forged =
        SignedBundle::seal(&rights(), &endpoints(), &keys.governance, &keys.governance).unwrap();
    assert!(matches!(
        keys.open(&forged),
        Err(BundleError::Signature("endpoints"))
    ));
}

#[test]
fn no_changed_byte_of_a_payload_passes() {
    let keys = Keys::new();
    let body = keys.seal(&rights(), &endpoints());
    let mut signed: SignedBundle = serde_json::from_slice(&body).unwrap();
    let payload = String::from_utf8(STANDARD.decode(&signed.rights).unwrap()).unwrap();
    signed.rights = STANDARD.encode(payload.replace("portal", "pirate"));
    let body = serde_json::to_vec(&signed).unwrap();
    assert!(matches!(
        keys.open(&body),
        Err(BundleError::Signature("rights"))
    ));
}

#[test]
fn a_payload_signed_for_the_other_part_does_not_pass() {
    let keys = Keys::new();
    let mut one_key = keys.public();
    one_key.control = one_key.governance;
    let body =
        SignedBundle::seal(&rights(), &endpoints(), &keys.governance, &keys.governance).unwrap();
    assert!(SignedBundle::open(&body, &one_key, &id("ledger")).is_ok());
    let mut signed: SignedBundle = serde_json::from_slice(&body).unwrap();
    signed.endpoints_signature = STANDARD.encode(
        keys.governance
            .sign(&STANDARD.decode(&signed.endpoints).unwrap()),
    );
    let body = serde_json::to_vec(&signed).unwrap();
    let refused = SignedBundle::open(&body, &one_key, &id("ledger"));
    assert!(matches!(refused, Err(BundleError::Signature("endpoints"))));
}

#[test]
fn a_bundle_for_another_workload_is_refused() {
    let keys = Keys::new();
    let stray = Rights {
        audience: id("portal"),
        ..rights()
    };
    assert!(matches!(
        keys.open(&keys.seal(&stray, &endpoints())),
        Err(BundleError::Audience { .. })
    ));
    let stray = Endpoints {
        audience: id("portal"),
        ..endpoints()
    };
    assert!(matches!(
        keys.open(&keys.seal(&rights(), &stray)),
        Err(BundleError::Audience { .. })
    ));
}

#[test]
fn an_unknown_condition_refuses_the_whole_bundle() {
    let keys = Keys::new();
    let mut payload = serde_json::to_value(rights()).unwrap();
    payload["grants"][0]["only_on_mondays"] = true.into();
    let payload = serde_json::to_vec(&payload).unwrap();
    let body = keys.seal(&rights(), &endpoints());
    let mut signed: SignedBundle = serde_json::from_slice(&body).unwrap();
    signed.rights_signature = sign(&keys.governance, RIGHTS_DOMAIN, &payload);
    signed.rights = STANDARD.encode(payload);
    let body = serde_json::to_vec(&signed).unwrap();
    assert!(matches!(
        keys.open(&body),
        Err(BundleError::Malformed { part: "rights", .. })
    ));
}

#[test]
fn an_older_bundle_does_not_follow() {
    let keys = Keys::new();
    let in_use = keys.open(&keys.seal(&rights(), &endpoints())).unwrap();
    let older = Rights {
        version: 6,
        ..rights()
    };
    let older = keys.open(&keys.seal(&older, &endpoints())).unwrap();
    assert!(matches!(
        older.check_follows(&in_use),
        Err(BundleError::Older {
            part: "rights",
            in_use: 7,
            found: 6
        })
    ));
    let older = Endpoints {
        version: 8,
        ..endpoints()
    };
    let older = keys.open(&keys.seal(&rights(), &older)).unwrap();
    assert!(older.check_follows(&in_use).is_err());
    assert!(in_use.check_follows(&in_use.clone()).is_ok());
}

#[test]
fn what_is_no_bundle_is_refused() {
    let keys = Keys::new();
    assert!(matches!(
        keys.open(b""),
        Err(BundleError::Malformed { part: "body", .. })
    ));
    assert!(matches!(
        keys.open(&vec![b' '; (16 << 20) + 1]),
        Err(BundleError::TooLarge)
    ));
}
