//! Names of the files under `books/`, relative to it, with `/`.

use counterfoil_entry::Time;
use counterfoil_entry::id::RetentionClass;
use counterfoil_entry::table::TableId;

/// The origin with every byte outside `[a-z0-9.-]` replaced by `_`: its name in paths.
#[must_use]
pub fn slug(origin: &str) -> String {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'.' || b == b'-';
    origin
        .bytes()
        .map(|b| if plain(b) { char::from(b) } else { '_' })
        .collect()
}

/// Folder of the log of `origin`.
#[must_use]
pub fn log_folder(origin: &str) -> String {
    format!("log/{}", slug(origin))
}

/// File of the checkpoint.
#[must_use]
pub fn checkpoint(origin: &str) -> String {
    format!("{}/checkpoint", log_folder(origin))
}

/// File of manifest `number`.
#[must_use]
pub fn manifest(origin: &str, number: u64) -> String {
    format!("{}/manifests/{number:012}", log_folder(origin))
}

/// File of the coverage object of manifest `number`.
#[must_use]
pub fn coverage(origin: &str, number: u64) -> String {
    format!("{}/coverage/{number:012}", log_folder(origin))
}

/// File of a segment, sealed at `sealed`; `random` keeps names of two tries apart.
#[must_use]
pub fn segment(
    origin: &str,
    table: TableId,
    class: &RetentionClass,
    sealed: Time,
    segment: u64,
    random: u32,
) -> String {
    format!(
        "{}/class={class}/date={}/{}-{segment:08}-{random:08x}.parquet",
        table.name(),
        sealed.date(),
        slug(origin)
    )
}

/// Whether `file` is a name that [`segment`] gives for these, with any date and random part.
#[must_use]
pub fn is_segment(
    file: &str,
    origin: &str,
    table: TableId,
    class: &RetentionClass,
    segment: u64,
) -> bool {
    let random = |text: &str| {
        text.len() == 8
            && text
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    file.strip_prefix(&format!("{}/class={class}/date=", table.name()))
        .and_then(|rest| rest.split_once('/'))
        .filter(|(date, _)| is_date(date))
        .and_then(|(_, name)| name.strip_prefix(&format!("{}-{segment:08}-", slug(origin))))
        .and_then(|rest| rest.strip_suffix(".parquet"))
        .is_some_and(random)
}

fn is_date(text: &str) -> bool {
    text.len() == 10
        && text.bytes().enumerate().all(|(at, b)| match at {
            4 | 7 => b == b'-',
            _ => b.is_ascii_digit(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_name_fits_only_its_own_segment() {
        let class = RetentionClass::parse("ops_90d").unwrap();
        let at = Time::from_ns(1_661_140_339_210_020_096);
        let name = segment("Bank.test/c 1", TableId::Entries, &class, at, 7, 0xab);
        assert_eq!(
            name,
            "entries/class=ops_90d/date=2022-08-22/_ank.test_c_1-00000007-000000ab.parquet"
        );
        assert!(is_segment(
            &name,
            "Bank.test/c 1",
            TableId::Entries,
            &class,
            7
        ));
        assert!(!is_segment(
            &name,
            "Bank.test/c 1",
            TableId::Entries,
            &class,
            8
        ));
        assert!(!is_segment(
            &name,
            "Bank.test/c 1",
            TableId::Gaps,
            &class,
            7
        ));
        assert!(!is_segment(&name, "other", TableId::Entries, &class, 7));
        let up = format!("{name}/../x");
        assert!(!is_segment(
            &up,
            "Bank.test/c 1",
            TableId::Entries,
            &class,
            7
        ));
    }
}
