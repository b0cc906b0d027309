//! Group J: what a token must be to count.

use counterfoil_entry::Hash;
use counterfoil_trust::{Expect, Identity, client_config, server_name};
use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::{Value, json};
use tokio_rustls::TlsConnector;

use crate::books::find_secret;
use crate::check::{Cases, Stop, Trouble};
use crate::h1::Said;
use crate::rig::{ANSWER_LIMIT, Probe, Rig, Session};
use crate::tokens::{Draft, Tokens, now_s, sign, strange_key, unsigned};

/// Bytes of a token that no honest issuer makes.
const ABSURD_BYTES: usize = 20_000;

/// The tokens of the profile, and the one certificate with which a check shows them.
struct Holder<'a> {
    rig: &'a Rig,
    tokens: &'a Tokens,
    identity: Identity,
}

impl<'a> Holder<'a> {
    fn of(rig: &'a Rig) -> Result<Self, Stop> {
        let none = || Stop::skip("the profile has no [tokens]");
        Ok(Self {
            rig,
            tokens: rig.tokens.as_ref().ok_or_else(none)?,
            identity: rig.material.identity()?,
        })
    }

    fn good(&self) -> Draft {
        let svid = self.identity.current();
        self.tokens.good(svid.spiffe_id(), svid.cert_sha256())
    }

    /// Calls with these header lines, at `path`, with the certificate that the tokens are bound to.
    async fn call(&self, probe: &Probe, path: &str, lines: &str) -> Result<Said, Stop> {
        let expect = Expect::Id(self.rig.target.spiffe_id.clone());
        let tls = client_config(&self.identity, expect, &[b"http/1.1"]);
        let (stream, port) = self.rig.tcp().await?;
        let connected = TlsConnector::from(tls).connect(server_name(), stream).await;
        let stream = connected.map_err(Trouble::Handshake)?;
        let mut session = Session { stream, port };
        let method = &self.tokens.call.method;
        let request = self.rig.request(probe, method, path, lines);
        session.write(request.as_bytes()).await;
        Ok(session.read(ANSWER_LIMIT).await)
    }

    async fn show(&self, probe: &Probe, token: &str) -> Result<Said, Stop> {
        let lines = format!("authorization: Bearer {token}\r\n");
        self.call(probe, &self.tokens.call.path, &lines).await
    }

    /// A good token must be taken, or a denial would prove nothing.
    async fn taken(&self, cases: &mut Cases, sent: &str, token: &str) -> Result<(), Stop> {
        let probe = Probe::new();
        let said = self.show(&probe, token).await?;
        cases.judge(sent, self.rig.served(&probe, &said).await);
        Ok(())
    }

    async fn denied(&self, cases: &mut Cases, sent: &str, token: &str) -> Result<(), Stop> {
        let probe = Probe::new();
        let said = self.show(&probe, token).await?;
        cases.judge(sent, self.rig.refused(&probe, &said).await);
        Ok(())
    }

    /// A good token is taken, and each of `drafts`, signed with the trusted key, is not.
    async fn only_good(&self, drafts: Vec<(&str, Draft)>) -> Result<Cases, Stop> {
        let mut cases = Cases::default();
        let good = self.tokens.sign(&self.good())?;
        self.taken(&mut cases, "a good token", &good).await?;
        for (sent, draft) in drafts {
            self.denied(&mut cases, sent, &self.tokens.sign(&draft)?)
                .await?;
        }
        Ok(cases)
    }

    /// A good token is taken, and each of `tokens`, signed already, is not.
    async fn only_good_of(&self, tokens: Vec<(&str, String)>) -> Result<Cases, Stop> {
        let mut cases = self.only_good(Vec::new()).await?;
        for (sent, token) in tokens {
            self.denied(&mut cases, sent, &token).await?;
        }
        Ok(cases)
    }
}

pub(super) async fn missing(rig: &Rig) -> Result<Cases, Stop> {
    let holder = Holder::of(rig)?;
    let mut cases = holder.only_good(Vec::new()).await?;
    for (sent, lines) in [
        ("no token", ""),
        ("another scheme", "authorization: Basic Y29uZm9ybTo=\r\n"),
        ("an empty token", "authorization: Bearer \r\n"),
        ("what is no token", "authorization: Bearer a.b\r\n"),
    ] {
        let probe = Probe::new();
        let said = holder.call(&probe, &holder.tokens.call.path, lines).await?;
        cases.judge(sent, rig.refused(&probe, &said).await);
    }
    Ok(cases)
}

pub(super) async fn alg_none(rig: &Rig) -> Result<Cases, Stop> {
    let holder = Holder::of(rig)?;
    let mut tokens = Vec::new();
    for alg in ["none", "None", "nOnE", ""] {
        let draft = holder.good().header("alg", json!(alg));
        tokens.push(("no signature, and alg says so", unsigned(&draft)));
        tokens.push(("a signature, and alg none", holder.tokens.sign(&draft)?));
    }
    tokens.push(("no signature", unsigned(&holder.good())));
    holder.only_good_of(tokens).await
}

pub(super) async fn hs256(rig: &Rig) -> Result<Cases, Stop> {
    let holder = Holder::of(rig)?;
    let draft = holder.good().header("alg", json!("HS256"));
    let jwk = holder.tokens.jwk().to_string();
    let mut tokens = Vec::new();
    for secret in [holder.tokens.public_pem.as_bytes(), jwk.as_bytes(), b""] {
        let key = EncodingKey::from_secret(secret);
        tokens.push((
            "HMAC with the public key",
            sign(&draft, &key, Algorithm::HS256)?,
        ));
    }
    holder.only_good_of(tokens).await
}

pub(super) async fn unknown_kid(rig: &Rig) -> Result<Cases, Stop> {
    let holder = Holder::of(rig)?;
    let (key, jwk) = strange_key().map_err(|error| Stop::skip(error.to_string()))?;
    let kid = jwk.get("kid").cloned().unwrap_or_default();
    let strange = holder.good().header("kid", kid);
    let tokens = vec![
        (
            "a stranger's key under its own name",
            sign(&strange, &key, Algorithm::ES256)?,
        ),
        (
            "a stranger's key under the trusted name",
            sign(&holder.good(), &key, Algorithm::ES256)?,
        ),
        (
            "no key named",
            holder
                .tokens
                .sign(&holder.good().header("kid", Value::Null))?,
        ),
        (
            "a path for a key's name",
            holder
                .tokens
                .sign(&holder.good().header("kid", json!("../../dev/null")))?,
        ),
    ];
    holder.only_good_of(tokens).await
}

pub(super) async fn key_in_header(rig: &Rig) -> Result<Cases, Stop> {
    let holder = Holder::of(rig)?;
    let (key, jwk) = strange_key().map_err(|error| Stop::skip(error.to_string()))?;
    let strange = holder
        .good()
        .header("kid", jwk.get("kid").cloned().unwrap_or_default());
    let mut tokens = Vec::new();
    for (sent, name, value) in [
        ("jwk", "jwk", jwk),
        ("jku", "jku", json!("http://127.0.0.1:9/jwks")),
        ("x5u", "x5u", json!("http://127.0.0.1:9/x5u")),
        ("x5c", "x5c", json!(["AAAA"])),
    ] {
        let own = strange.clone().header(name, value.clone());
        tokens.push((sent, sign(&own, &key, Algorithm::ES256)?));
        // and under the name of the trusted key
        let trusted = holder.good().header(name, value);
        tokens.push((sent, sign(&trusted, &key, Algorithm::ES256)?));
    }
    holder.only_good_of(tokens).await
}

pub(super) async fn audience(rig: &Rig) -> Result<Cases, Stop> {
    let holder = Holder::of(rig)?;
    let api = &holder.tokens.api;
    let with = |value| holder.good().claim("aud", value);
    let drafts = vec![
        ("another API", with(json!(format!("{api}-other")))),
        (
            "the beginning of its name",
            with(json!(api.get(..1).unwrap_or(""))),
        ),
        ("no audience", with(Value::Null)),
        ("an object", with(json!({ "api": api }))),
    ];
    holder.only_good(drafts).await
}

pub(super) async fn issuer(rig: &Rig) -> Result<Cases, Stop> {
    let holder = Holder::of(rig)?;
    let issuer = &holder.tokens.issuer;
    let with = |value| holder.good().claim("iss", value);
    let drafts = vec![
        (
            "another issuer",
            with(json!("https://elsewhere.test/control")),
        ),
        (
            "the issuer and more",
            with(json!(format!("{issuer}.elsewhere.test"))),
        ),
        ("no issuer", with(Value::Null)),
    ];
    holder.only_good(drafts).await
}

pub(super) async fn expired(rig: &Rig) -> Result<Cases, Stop> {
    let holder = Holder::of(rig)?;
    let now = now_s();
    let ago = |s: i64| {
        let draft = holder.good().claim("exp", json!(now - s));
        draft
            .claim("iat", json!(now - s - 60))
            .claim("nbf", json!(now - s - 60))
    };
    let drafts = vec![
        ("over since a minute", ago(60)),
        ("over since years", ago(100_000_000)),
    ];
    holder.only_good(drafts).await
}

pub(super) async fn not_yet(rig: &Rig) -> Result<Cases, Stop> {
    let holder = Holder::of(rig)?;
    let soon = json!(now_s() + 120);
    let drafts = vec![
        (
            "nbf in two minutes",
            holder.good().claim("nbf", soon.clone()),
        ),
        (
            "nbf and iat in two minutes",
            holder.good().claim("nbf", soon.clone()).claim("iat", soon),
        ),
    ];
    holder.only_good(drafts).await
}

pub(super) async fn ill_typed(rig: &Rig) -> Result<Cases, Stop> {
    let holder = Holder::of(rig)?;
    let now = now_s();
    let late = (now + 300).to_string();
    let mut drafts = vec![
        ("exp as text", holder.good().claim("exp", json!(late))),
        (
            "exp as a list",
            holder.good().claim("exp", json!([now + 300])),
        ),
        ("exp as a truth", holder.good().claim("exp", json!(true))),
        (
            "exp without bounds",
            holder.good().claim("exp", json!(1e300)),
        ),
        (
            "nbf as text",
            holder.good().claim("nbf", json!(now.to_string())),
        ),
    ];
    for (sent, name) in [("no exp", "exp"), ("no nbf", "nbf")] {
        drafts.push((sent, holder.good().claim(name, Value::Null)));
    }
    holder.only_good(drafts).await
}

pub(super) async fn no_scope(rig: &Rig) -> Result<Cases, Stop> {
    let holder = Holder::of(rig)?;
    let with = |value| holder.good().claim("scope", value);
    let drafts = vec![
        ("another operation", with(json!("conformOther"))),
        ("an empty scope", with(json!(""))),
        ("no scope", with(Value::Null)),
        ("a star", with(json!("*"))),
    ];
    holder.only_good(drafts).await
}

pub(super) async fn near_scope(rig: &Rig) -> Result<Cases, Stop> {
    let holder = Holder::of(rig)?;
    let scope = &holder.tokens.scope;
    let with = |text: String| holder.good().claim("scope", json!(text));
    let shorter: String = scope.chars().take(scope.chars().count() - 1).collect();
    let drafts = vec![
        (
            "with a version",
            with(format!("v2.{scope} {scope}.v2 {scope}2")),
        ),
        ("in capitals", with(scope.to_uppercase())),
        ("its beginning", with(shorter)),
        ("inside another word", with(format!("x{scope}x"))),
        ("separated by a comma", with(format!("{scope},other"))),
    ];
    holder.only_good(drafts).await
}

pub(super) async fn stolen(rig: &Rig) -> Result<Cases, Stop> {
    let holder = Holder::of(rig)?;
    // the same workload with another certificate, and another workload
    let renewed = rig.material.identity()?.current();
    let drafts = vec![
        (
            "bound to another certificate",
            holder.tokens.good(renewed.spiffe_id(), Hash([7; 32])),
        ),
        (
            "bound to nothing that is a certificate",
            holder.good().claim("cnf", json!({ "x5t#S256": "AA" })),
        ),
    ];
    holder.only_good(drafts).await
}

pub(super) async fn unbound(rig: &Rig) -> Result<Cases, Stop> {
    let holder = Holder::of(rig)?;
    let with = |value| holder.good().claim("cnf", value);
    let drafts = vec![
        ("no cnf", with(Value::Null)),
        ("an empty cnf", with(json!({}))),
        ("another binding", with(json!({ "jkt": "AA" }))),
    ];
    holder.only_good(drafts).await
}

pub(super) async fn other_subject(rig: &Rig) -> Result<Cases, Stop> {
    let holder = Holder::of(rig)?;
    let other = format!("{}-other", rig.material.spiffe_id.as_str());
    let drafts = vec![
        (
            "another subject",
            holder
                .good()
                .claim("sub", json!(other))
                .claim("client_id", json!(other)),
        ),
        ("no subject", holder.good().claim("sub", Value::Null)),
    ];
    holder.only_good(drafts).await
}

pub(super) async fn revoked(rig: &Rig) -> Result<Cases, Stop> {
    let holder = Holder::of(rig)?;
    let none = || Stop::skip("the profile names no revoked token");
    let jti = holder.tokens.revoked.as_ref().ok_or_else(none)?;
    let draft = holder.good().claim("jti", json!(jti));
    holder.only_good(vec![("a revoked jti", draft)]).await
}

pub(super) async fn leeway(rig: &Rig) -> Result<Cases, Stop> {
    /// Room for the call itself (s).
    const ROOM_S: i64 = 2;
    const INSIDE_TRIES: usize = 3;
    let holder = Holder::of(rig)?;
    let none = || Stop::skip("the profile promises no leeway_s");
    let leeway_s = holder.tokens.leeway_s.ok_or_else(none)?;
    if leeway_s <= ROOM_S {
        return Err(Stop::skip(format!(
            "a leeway of {leeway_s} s is too short to measure"
        )));
    }
    let expired = |ago: i64| {
        let now = now_s();
        let draft = holder.good().claim("exp", json!(now - ago));
        draft
            .claim("iat", json!(now - 100))
            .claim("nbf", json!(now - 100))
    };
    let early = |ahead: i64| {
        let from = json!(now_s() + ahead);
        holder.good().claim("nbf", from.clone()).claim("iat", from)
    };
    let mut cases = Cases::default();
    let mut judged = (false, String::new());
    for _try in 0..INSIDE_TRIES {
        let probe = Probe::new();
        let inside = holder.tokens.sign(&expired(leeway_s - ROOM_S))?;
        let said = holder.show(&probe, &inside).await?;
        judged = rig.served(&probe, &said).await;
        // a busy machine can take longer than the room for one call
        if judged.0 {
            break;
        }
    }
    cases.judge("expired within the leeway", judged);
    let beyond = holder.tokens.sign(&expired(leeway_s + ROOM_S))?;
    holder
        .denied(&mut cases, "expired before the leeway", &beyond)
        .await?;
    let inside = holder.tokens.sign(&early(leeway_s - ROOM_S))?;
    holder
        .taken(&mut cases, "valid within the leeway", &inside)
        .await?;
    // the call itself takes time, which brings the token nearer
    let beyond = holder.tokens.sign(&early(leeway_s + 2 * ROOM_S))?;
    holder
        .denied(&mut cases, "valid after the leeway", &beyond)
        .await?;
    Ok(cases)
}

pub(super) async fn misplaced(rig: &Rig) -> Result<Cases, Stop> {
    let holder = Holder::of(rig)?;
    let mut cases = holder.only_good(Vec::new()).await?;
    let path = &holder.tokens.call.path;
    let token = holder.tokens.sign(&holder.good())?;
    let second = holder.tokens.sign(&holder.good())?;
    let absurd = holder
        .good()
        .claim("padding", json!("x".repeat(ABSURD_BYTES)));
    let absurd = holder.tokens.sign(&absurd)?;
    let header = |token: &str| format!("authorization: Bearer {token}\r\n");
    for (sent, path, lines) in [
        (
            "in the query",
            format!("{path}?access_token={token}"),
            String::new(),
        ),
        (
            "two headers",
            path.clone(),
            header(&token) + &header(&second),
        ),
        (
            "two tokens in a header",
            path.clone(),
            header(&format!("{token}, Bearer {second}")),
        ),
        ("20 kB of token", path.clone(), header(&absurd)),
    ] {
        let probe = Probe::new();
        let said = holder.call(&probe, &path, &lines).await?;
        cases.judge(sent, rig.refused(&probe, &said).await);
    }
    let secrets = [token, second, absurd].map(|token| tail(&token)).to_vec();
    let mut places = rig.logs.clone();
    places.extend(rig.spools());
    match find_secret(&places, &secrets).map_err(Trouble::Books)? {
        _ if places.is_empty() => {}
        None => cases.add("a look into logs and spools", true, "no token in them"),
        Some((file, _)) => {
            let saw = format!("a token stands in {}", file.display());
            cases.add("a look into logs and spools", false, saw);
        }
    }
    Ok(cases)
}

/// The end of a token: by it the token is found wherever it was cut.
fn tail(token: &str) -> String {
    let skipped = token.len().saturating_sub(40);
    token.chars().skip(skipped).collect()
}
