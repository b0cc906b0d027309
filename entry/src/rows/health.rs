//! Rows about the mesh itself: certificates, the control plane's health, conformance.

use crate::Time;
use crate::record::{self, HeaderRef};
use crate::table::TableId;

/// One row of `cert_rotations`: one attempt to get a new SVID and to be seen with it. Field names are
/// the column names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertRotationRow {
    /// The attempt.
    pub attempt_id: String,
    /// SPIFFE id of the workload.
    pub workload: String,
    /// The life of one certificate: its serial in hex, or `first` before there was one.
    pub cycle: String,
    /// 1 for the first attempt of the cycle, then 2, 3 ..
    pub attempt: u64,
    /// `first`, `scheduled` (between 45 and 55 % of the life) or `retry`.
    pub trigger: String,
    /// Serial of the SVID in use, in hex.
    pub old_serial: Option<String>,
    /// When it expires.
    pub old_not_after: Option<Time>,
    /// Serial of the new one, once there is one.
    pub new_serial: Option<String>,
    /// When that expires.
    pub new_not_after: Option<Time>,
    /// When the attempt began.
    pub started_at: Time,
    /// When it ended.
    pub ended_at: Time,
    /// `success` (a handshake with the new serial was seen by the peer) or `failed`.
    pub outcome: String,
    /// `ca_unreachable`, `ca_rejected`, `csr_invalid`, `io`, `clock`, `swap_failed`.
    pub error_class: Option<String>,
}

impl CertRotationRow {
    /// Appends R to `out`.
    pub fn encode(&self, header: &HeaderRef<'_>, out: &mut Vec<u8>) {
        let mut w = record::begin(TableId::CertRotations, header, out);
        w.text(5, &self.attempt_id)
            .text(6, &self.workload)
            .text(7, &self.cycle)
            .u64(8, self.attempt)
            .text(9, &self.trigger);
        w.text_opt(10, self.old_serial.as_deref())
            .time_opt(11, self.old_not_after);
        w.text_opt(12, self.new_serial.as_deref())
            .time_opt(13, self.new_not_after);
        w.time(14, self.started_at).time(15, self.ended_at);
        w.text(16, &self.outcome)
            .text_opt(17, self.error_class.as_deref());
    }
}

/// Length of a slot of `control_health` (seconds). Slots begin at multiples of it since the Unix
/// epoch.
pub const SLOT_S: u64 = 10;

/// One row of `control_health`: how one reporter found a component in consecutive slots of
/// [`SLOT_S`] seconds. Field names are the column names.
///
/// Slots in which the reporter found the same may share a row, six at most.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlHealthRow {
    /// `control`.
    pub component: String,
    /// `prober`, or `proxy` for a proxy's own polls.
    pub reporter: String,
    /// Begin of the first slot.
    pub slot_start: Time,
    /// How many slots, at least 1.
    pub slots: u64,
    /// Requests that were answered well.
    pub ok: u64,
    /// Requests that were not.
    pub failed: u64,
    /// Whether the component answered well in each of these slots.
    pub up: bool,
    /// Longest time of a good answer (ns).
    pub latency_max_ns: Option<u64>,
    /// Class of the last failure: `unreachable`, `refused`, `timeout`.
    pub error_class: Option<String>,
}

impl ControlHealthRow {
    /// Appends R to `out`.
    pub fn encode(&self, header: &HeaderRef<'_>, out: &mut Vec<u8>) {
        let mut w = record::begin(TableId::ControlHealth, header, out);
        w.text(5, &self.component)
            .text(6, &self.reporter)
            .time(7, self.slot_start)
            .u64(8, self.slots);
        w.u64(9, self.ok).u64(10, self.failed).bool(11, self.up);
        w.u64_opt(12, self.latency_max_ns)
            .text_opt(13, self.error_class.as_deref());
    }
}

/// One row of `conformance_results`: what one check of one run found. Field names are the column
/// names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConformanceRow {
    /// The run.
    pub run_id: String,
    /// The check, as in `T01`.
    pub check: String,
    /// What was checked: an address or a name.
    pub target: String,
    /// What the check demands.
    pub title: String,
    /// `critical`, `high` or `medium`.
    pub severity: String,
    /// `pass`, `fail` or `skipped`.
    pub outcome: String,
    /// What was seen, without any secret.
    pub evidence: Option<String>,
    /// When.
    pub checked_at: Time,
    /// Build of the tool.
    pub build: String,
}

impl ConformanceRow {
    /// Appends R to `out`.
    pub fn encode(&self, header: &HeaderRef<'_>, out: &mut Vec<u8>) {
        let mut w = record::begin(TableId::ConformanceResults, header, out);
        w.text(5, &self.run_id)
            .text(6, &self.check)
            .text(7, &self.target)
            .text(8, &self.title);
        w.text(9, &self.severity)
            .text(10, &self.outcome)
            .text_opt(11, self.evidence.as_deref());
        w.time(12, self.checked_at).text(13, &self.build);
    }
}
