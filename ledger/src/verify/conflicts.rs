//! Statements that a writer signed under a number that another one has already.

use std::collections::BTreeMap;

use counterfoil_entry::Hash;
use counterfoil_entry::record::RecordView;
use counterfoil_entry::statement::{Signed, Statement, statement_hash, verify_statement};
use counterfoil_entry::tlv::Fields;

/// The statements that the books keep in `conflicts`, by writer, epoch and number.
#[derive(Debug, Default)]
pub(super) struct Conflicts {
    others: BTreeMap<(String, u64, u64), Vec<Signed>>,
    count: u64,
}

impl Conflicts {
    /// Takes a row of the table.
    pub(super) fn add(&mut self, record: &[u8]) -> Result<(), String> {
        let view = RecordView::parse(record).map_err(|error| error.to_string())?;
        let fields = Fields::parse(view.body).map_err(|error| error.to_string())?;
        let read = || {
            let place = (fields.text(5)?.to_owned(), fields.u64(6)?, fields.u64(7)?);
            let bytes = fields.bytes(10)?.to_vec();
            let signed = Signed {
                bytes,
                signature: fields.bytes(11)?.to_vec(),
            };
            Ok((place, fields.hash(9)?, signed))
        };
        let (place, hash, signed) =
            read().map_err(|error: counterfoil_entry::tlv::TlvError| error.to_string())?;
        let statement = Statement::decode(&signed.bytes).map_err(|error| error.to_string())?;
        let (writer, epoch, number) = &place;
        let is_own = statement.writer.as_str() == writer
            && (statement.epoch.0, statement.number) == (*epoch, *number);
        if !is_own || statement_hash(&signed.bytes) != hash {
            return Err("the row does not say what the signed bytes in it say".to_owned());
        }
        self.others.entry(place).or_default().push(signed);
        self.count += 1;
        Ok(())
    }

    /// Rows taken.
    pub(super) const fn count(&self) -> u64 {
        self.count
    }

    /// Whether the writer, with its audit key, also signed a statement of this number and hash.
    pub(super) fn explain(
        &self,
        (writer, epoch, number): (&str, u64, u64),
        hash: &Hash,
        audit_key: Option<&[u8; 32]>,
    ) -> bool {
        let others = self.others.get(&(writer.to_owned(), epoch, number));
        let (Some(others), Some(key)) = (others, audit_key) else {
            return false;
        };
        others
            .iter()
            .any(|other| statement_hash(&other.bytes) == *hash && verify_statement(other, key))
    }
}
