//! The table `issuance`: every SVID and token issued and every epoch seen, written before anybody is
//! answered.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;

use counterfoil_entry::id::RetentionClass;
use counterfoil_entry::rows::IssuanceRow;
use counterfoil_entry::table::TableId;
use counterfoil_entry::{Time, tree};
use counterfoil_spool::{AppendError, Lane};
use counterfoil_trust::token::Claims;
use counterfoil_trust::{Peer, SpiffeId};

use crate::authority::Issued;

/// A workload has a few instances; this many epochs of it are remembered so that each is written once.
const EPOCHS_REMEMBERED: usize = 64;

/// How a workload proved who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    JoinToken,
    Renewal,
    Own,
}

impl Method {
    fn as_str(self) -> &'static str {
        match self {
            Self::JoinToken => "join_token",
            Self::Renewal => "renewal",
            Self::Own => "self",
        }
    }
}

/// Writes the rows. They are kept for ever: old announcements are checked against them.
#[derive(Debug)]
pub(crate) struct Issuance {
    lane: Lane,
    class: RetentionClass,
    /// The last ones seen, in the order in which they were seen.
    epochs: HashMap<SpiffeId, VecDeque<u64>>,
}

impl Issuance {
    pub(crate) fn new(lane: Lane) -> Self {
        Self {
            lane,
            class: RetentionClass::permanent(),
            epochs: HashMap::new(),
        }
    }

    /// Writes that an SVID was issued. Without this row it must not be handed out.
    pub(crate) fn issued(
        &mut self,
        issued: &Issued,
        method: Method,
        peer: Option<SocketAddr>,
        now: Time,
    ) -> Result<(), AppendError> {
        self.append(&IssuanceRow {
            kind: "svid".to_owned(),
            serial: Some(issued.peer.serial.clone()),
            spiffe_id: issued.peer.spiffe_id.to_string(),
            not_before: Some(issued.peer.not_before),
            not_after: Some(issued.peer.not_after),
            cert_sha256: Some(issued.peer.cert_sha256),
            spki_sha256: Some(tree::sha256(&issued.spki_der)),
            issued_at: now,
            method: Some(method.as_str().to_owned()),
            subject_epoch: None,
            peer_address: peer.map(|address| address.ip().to_string()),
        })
    }

    /// Writes that a token was made for `peer`. Without this row it must not be handed out.
    pub(crate) fn token(
        &mut self,
        claims: &Claims,
        peer: &Peer,
        address: SocketAddr,
        now: Time,
    ) -> Result<(), AppendError> {
        self.append(&IssuanceRow {
            kind: "token".to_owned(),
            serial: Some(claims.jti.clone()),
            spiffe_id: peer.spiffe_id.to_string(),
            not_before: Some(seconds(claims.nbf)),
            not_after: Some(seconds(claims.exp)),
            cert_sha256: Some(peer.cert_sha256),
            spki_sha256: None,
            issued_at: now,
            method: Some("client_credentials".to_owned()),
            subject_epoch: None,
            peer_address: Some(address.ip().to_string()),
        })
    }

    /// Writes that a workload was seen in an epoch, once.
    pub(crate) fn seen(
        &mut self,
        spiffe_id: &SpiffeId,
        epoch: u64,
        peer: SocketAddr,
        now: Time,
    ) -> Result<(), AppendError> {
        if self
            .epochs
            .get(spiffe_id)
            .is_some_and(|epochs| epochs.contains(&epoch))
        {
            return Ok(());
        }
        self.append(&IssuanceRow {
            kind: "epoch".to_owned(),
            serial: None,
            spiffe_id: spiffe_id.to_string(),
            not_before: None,
            not_after: None,
            cert_sha256: None,
            spki_sha256: None,
            issued_at: now,
            method: None,
            subject_epoch: Some(epoch),
            peer_address: Some(peer.ip().to_string()),
        })?;
        let epochs = self.epochs.entry(spiffe_id.clone()).or_default();
        epochs.push_back(epoch);
        if epochs.len() > EPOCHS_REMEMBERED {
            epochs.pop_front();
        }
        Ok(())
    }

    fn append(&mut self, row: &IssuanceRow) -> Result<(), AppendError> {
        self.lane
            .append(TableId::Issuance, &self.class, |header, out| {
                row.encode(header, out)
            })
            .map(drop)
    }
}

fn seconds(since_epoch: i64) -> Time {
    Time::from_ns(since_epoch.saturating_mul(1_000_000_000))
}

#[cfg(test)]
mod tests {
    use counterfoil_entry::id::Writer;
    use counterfoil_entry::{Hash, clock};
    use counterfoil_spool::{Spool, SpoolConfig};

    use super::*;

    #[test]
    fn an_epoch_is_written_once_also_after_a_clock_went_back() {
        let directory = tempfile::tempdir().unwrap();
        let spool = Spool::open(SpoolConfig {
            directory: directory.path().to_owned(),
            writer: Writer::parse("spiffe://bank.test/counterfoil/control#a").unwrap(),
            size_max: 16 << 20,
            build: "test".to_owned(),
            config_sha256: Hash([0; 32]),
        })
        .unwrap();
        let mut issuance = Issuance::new(spool.lane(0));
        let who = SpiffeId::parse("spiffe://bank.test/workload/cart").unwrap();
        let peer = SocketAddr::from(([127, 0, 0, 1], 1));
        let epochs = u64::try_from(EPOCHS_REMEMBERED).unwrap();
        for epoch in (0..=epochs).rev() {
            issuance.seen(&who, epoch, peer, clock::wall()).unwrap();
        }
        let remembered = &issuance.epochs[&who];
        assert!(
            remembered.contains(&0),
            "it would be written with every poll"
        );
        assert_eq!(remembered.len(), EPOCHS_REMEMBERED);
    }
}
