//! What a manifest of kind `deletion` says: which segments left the books, by which rule and plan,
//! and who agreed. It stands for ever, so that what was deleted can be told from what was lost.

use counterfoil_entry::id::RetentionClass;
use counterfoil_entry::table::TableId;
use counterfoil_entry::tlv::{Encoder, Fields, TlvError};
use counterfoil_entry::{Hash, Time};

use super::{ManifestError, SegmentRef};

/// Segments that one deletion names at most: its manifest stays well below 64 KiB.
pub const SEGMENTS_MAX: usize = 200;
/// Rules that one deletion names at most.
pub const RULES_MAX: usize = 32;
/// People who must agree to a plan.
pub const APPROVALS: usize = 2;
/// Nanoseconds of a day.
pub const DAY_NS: i64 = 86_400_000_000_000;

/// Segments that leave the books lawfully.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deletion {
    /// SHA-256 of the plan that was agreed to.
    pub plan_sha256: Hash,
    /// Leaf hashes of the approvals, which are rows of `retention_actions`.
    pub approvals: [Hash; APPROVALS],
    /// The rules by which the segments were due, ascending by class.
    pub rules: Vec<ClassRule>,
    /// The segments, ascending by number; at least one.
    pub segments: Vec<DeletedSegment>,
}

/// How long a class is kept, as the classes file said when the plan was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClassRule {
    /// The class.
    pub class: RetentionClass,
    /// Days that its segments are kept.
    pub days: u64,
    /// Why that long.
    pub reason: String,
}

/// A segment that left the books, as its seal described it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeletedSegment {
    /// Number of the segment.
    pub segment: u64,
    /// The table of its rows.
    pub table: TableId,
    /// The retention class of its rows.
    pub class: RetentionClass,
    /// Rows.
    pub count: u64,
    /// RFC 6962 root over the leaf hashes by leaf index.
    pub root: Hash,
    /// Size of its file.
    pub bytes: u64,
    /// Class whose rule was applied: its own, or a longer one that a scope of its rows asks for.
    pub rule: RetentionClass,
    /// From when it might be deleted.
    pub allowed_from: Time,
}

/// Whether segments of a table and class may ever leave the books.
///
/// What proofs rest on stays: statements, gaps, conflicts, issuance, and the record of retention itself.
#[must_use]
pub fn may_end(table: TableId, class: &RetentionClass) -> bool {
    !class.is_permanent()
        && !matches!(
            table,
            TableId::Statements
                | TableId::Gaps
                | TableId::Conflicts
                | TableId::Issuance
                | TableId::RetentionActions
                | TableId::LegalHolds
        )
}

/// From when a segment may be deleted: `days` after the later of its newest row's time and its sealing.
#[must_use]
pub fn allowed_from(last_time: Time, sealed: Time, days: u64) -> Time {
    let kept_ns = i64::try_from(days)
        .unwrap_or(i64::MAX)
        .saturating_mul(DAY_NS);
    // `Time::plus_ns` must not wrap round into the past.
    Time::from_ns(last_time.max(sealed).as_ns().saturating_add(kept_ns))
}

impl DeletedSegment {
    /// Whether `sealed` is the segment that this names.
    #[must_use]
    pub fn is_of(&self, sealed: &SegmentRef) -> bool {
        (self.segment, self.table, &self.class) == (sealed.segment, sealed.table, &sealed.class)
            && (self.count, self.root, self.bytes) == (sealed.count, sealed.root, sealed.bytes)
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        Encoder::new(&mut out)
            .u64(1, self.segment)
            .u64(2, u64::from(self.table.number()))
            .text(3, self.class.as_str())
            .u64(4, self.count)
            .bytes(5, &self.root.0)
            .u64(6, self.bytes)
            .text(7, self.rule.as_str())
            .time(8, self.allowed_from);
        out
    }

    fn decode(bytes: &[u8]) -> Result<Self, TlvError> {
        let fields = Fields::parse(bytes)?;
        fields.only(&[1, 2, 3, 4, 5, 6, 7, 8])?;
        let table = fields
            .u16_opt(2)?
            .and_then(TableId::from_number)
            .ok_or(TlvError::Wrong(2))?;
        let class = |id| RetentionClass::parse(fields.text(id)?).map_err(|_| TlvError::Wrong(id));
        Ok(Self {
            segment: fields.u64(1)?,
            table,
            class: class(3)?,
            count: fields.u64(4)?,
            root: fields.hash(5)?,
            bytes: fields.u64(6)?,
            rule: class(7)?,
            allowed_from: fields.time(8)?,
        })
    }
}

impl ClassRule {
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        Encoder::new(&mut out)
            .text(1, self.class.as_str())
            .u64(2, self.days)
            .text(3, &self.reason);
        out
    }

    fn decode(bytes: &[u8]) -> Result<Self, TlvError> {
        let fields = Fields::parse(bytes)?;
        fields.only(&[1, 2, 3])?;
        Ok(Self {
            class: RetentionClass::parse(fields.text(1)?).map_err(|_| TlvError::Wrong(1))?,
            days: fields.u64(2)?,
            reason: fields.text(3)?.to_owned(),
        })
    }
}

impl Deletion {
    /// The rule that was applied to `segment`.
    #[must_use]
    pub fn rule_of(&self, segment: &DeletedSegment) -> Option<&ClassRule> {
        self.rules.iter().find(|rule| rule.class == segment.rule)
    }

    pub(super) fn encode(&self, to: &mut Encoder<'_>) {
        let approvals: Vec<&[u8]> = self
            .approvals
            .iter()
            .map(|leaf| leaf.0.as_slice())
            .collect();
        let rules: Vec<Vec<u8>> = self.rules.iter().map(ClassRule::encode).collect();
        let segments: Vec<Vec<u8>> = self.segments.iter().map(DeletedSegment::encode).collect();
        to.bytes(48, &self.plan_sha256.0)
            .list_bytes(49, &approvals)
            .list_bytes(50, &rules)
            .list_bytes(51, &segments);
    }

    pub(super) fn decode(fields: &Fields<'_>) -> Result<Self, ManifestError> {
        let approvals: Vec<Hash> = fields
            .list_bytes(49)?
            .into_iter()
            .map(|leaf| Hash::from_slice(leaf).ok_or(TlvError::Wrong(49)))
            .collect::<Result<_, _>>()?;
        let approvals: [Hash; APPROVALS] = approvals
            .try_into()
            .map_err(|_| ManifestError::Form("a deletion names two approvals"))?;
        let segments = fields.list_bytes(51)?.into_iter().enumerate();
        let deletion = Self {
            plan_sha256: fields.hash(48)?,
            approvals,
            rules: fields
                .list_bytes(50)?
                .into_iter()
                .map(ClassRule::decode)
                .collect::<Result<_, _>>()?,
            segments: segments
                .map(|(at, item)| {
                    DeletedSegment::decode(item)
                        .map_err(|source| ManifestError::Segment { at, source })
                })
                .collect::<Result<_, _>>()?,
        };
        deletion.check().map_err(ManifestError::Form)?;
        Ok(deletion)
    }

    /// Checks what the deletion says against itself.
    ///
    /// # Errors
    /// What cannot stand together, in words.
    pub fn check(&self) -> Result<(), &'static str> {
        let [first, second] = &self.approvals;
        if first == second {
            return Err("a deletion names one approval twice");
        }
        if self.segments.is_empty() || self.segments.len() > SEGMENTS_MAX {
            return Err("a deletion names 1 to 200 segments");
        }
        let is_ascending = self
            .segments
            .iter()
            .zip(self.segments.iter().skip(1))
            .all(|(one, next)| one.segment < next.segment);
        if !is_ascending {
            return Err("the segments of a deletion do not ascend");
        }
        let is_ascending = self
            .rules
            .iter()
            .zip(self.rules.iter().skip(1))
            .all(|(one, next)| one.class < next.class);
        if !is_ascending || self.rules.len() > RULES_MAX {
            return Err("the rules of a deletion do not ascend, or are more than 32");
        }
        let is_ruled = |segment: &DeletedSegment| self.rule_of(segment).is_some();
        if !self.segments.iter().all(is_ruled) {
            return Err("a deletion does not state a rule that it applies");
        }
        let is_used = |rule: &ClassRule| self.segments.iter().any(|one| one.rule == rule.class);
        if !self.rules.iter().all(is_used) {
            return Err("a deletion states a rule that it does not apply");
        }
        if !self
            .segments
            .iter()
            .all(|one| may_end(one.table, &one.class) && !one.rule.is_permanent())
        {
            return Err("a deletion names a segment that is kept for ever");
        }
        Ok(())
    }
}
