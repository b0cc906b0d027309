//! Where each workload's bundle lies ready, and where its polls wait for the next one.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use counterfoil_trust::SpiffeId;
use tokio::sync::watch;

/// One bundle, ready to be served.
#[derive(Clone, Debug)]
pub(crate) struct Served {
    pub(crate) body: Bytes,
    /// Quoted, as the header wants it.
    pub(crate) etag: Arc<str>,
    /// 0, 1, 2 .. with each bundle of this workload since control started.
    pub(crate) change: u64,
    /// The last change that took a right away.
    pub(crate) urgent: u64,
}

/// A bundle that is to lie on the shelf.
#[derive(Debug)]
pub(super) struct Sheet {
    pub(super) audience: SpiffeId,
    pub(super) body: Bytes,
    pub(super) etag: Arc<str>,
}

/// All bundles. Reading takes no lock; one publisher at a time writes.
#[derive(Debug, Default)]
pub(crate) struct Shelf {
    places: ArcSwap<HashMap<SpiffeId, watch::Sender<Served>>>,
}

impl Shelf {
    /// The place of one workload's bundle: what lies there, and what will. It ends when the workload
    /// is no longer part of the estate.
    pub(crate) fn find(&self, audience: &SpiffeId) -> Option<watch::Receiver<Served>> {
        let places = self.places.load();
        places.get(audience).map(watch::Sender::subscribe)
    }

    /// How many requests wait for the next bundle of one workload.
    #[cfg(test)]
    pub(crate) fn waiting(&self, audience: &SpiffeId) -> usize {
        let places = self.places.load();
        places
            .get(audience)
            .map_or(0, watch::Sender::receiver_count)
    }

    pub(super) fn holds(&self, audience: &SpiffeId) -> bool {
        self.places.load().contains_key(audience)
    }

    /// For whom there is a bundle.
    pub(super) fn audiences(&self) -> Vec<SpiffeId> {
        self.places.load().keys().cloned().collect()
    }

    /// How many bundles lie here.
    pub(crate) fn len(&self) -> usize {
        self.places.load().len()
    }

    /// Lays bundles in their places and wakes who waits there.
    pub(super) fn put(&self, sheets: Vec<Sheet>, urgent: bool) {
        let places = self.places.load();
        let mut new = Vec::new();
        for sheet in sheets {
            let Some(place) = places.get(&sheet.audience) else {
                new.push(sheet);
                continue;
            };
            place.send_modify(|served| {
                served.change += 1;
                if urgent {
                    served.urgent = served.change;
                }
                served.body = sheet.body;
                served.etag = sheet.etag;
            });
        }
        if new.is_empty() {
            return;
        }
        let mut places = HashMap::clone(&places);
        for sheet in new {
            let served = Served {
                body: sheet.body,
                etag: sheet.etag,
                change: 0,
                urgent: 0,
            };
            places.insert(sheet.audience, watch::Sender::new(served));
        }
        self.places.store(Arc::new(places));
    }

    /// Clears places. Who waits there is told that they are gone.
    pub(super) fn clear(&self, gone: &[SpiffeId]) {
        if gone.is_empty() {
            return;
        }
        let mut places = HashMap::clone(&self.places.load());
        places.retain(|audience, _| !gone.contains(audience));
        self.places.store(Arc::new(places));
    }
}
