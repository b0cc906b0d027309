//! Files of JSON lines that only grow, and are made anew when most of their lines are overtaken.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::marker::PhantomData;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::authority::replace;

/// A file of up to this many lines more than it needs is left as it is.
const OVERTAKEN_MAX: usize = 4_096;

/// Why a file of JSON lines cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinesError {
    #[error("cannot use {file}")]
    File {
        file: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{file}:{line} is not usable: {reason}")]
    Line {
        file: PathBuf,
        line: usize,
        reason: String,
    },
}

/// The file, open at its end.
#[derive(Debug)]
pub(crate) struct JsonLines<T> {
    path: PathBuf,
    mode: u32,
    file: File,
    lines: usize,
    /// A line that was not written whole must not be gone on from.
    torn: bool,
    of: PhantomData<fn() -> T>,
}

impl<T: Serialize + DeserializeOwned> JsonLines<T> {
    /// Opens `path`, which need not be there, and reads its lines. A last line without its end was
    /// cut off by a crash before anybody relied on it, and is left out.
    pub(crate) fn open(path: &Path, mode: u32) -> Result<(Self, Vec<T>), LinesError> {
        let unusable = |source| LinesError::File {
            file: path.to_owned(),
            source,
        };
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(mode)
            .open(path)
            .map_err(unusable)?;
        let text = std::fs::read(path).map_err(unusable)?;
        let mut values = Vec::new();
        for (at, line) in text.split_inclusive(|byte| *byte == b'\n').enumerate() {
            let Some(line) = line.strip_suffix(b"\n") else {
                break;
            };
            let value = serde_json::from_slice(line).map_err(|e| LinesError::Line {
                file: path.to_owned(),
                line: at + 1,
                reason: e.to_string(),
            })?;
            values.push(value);
        }
        let lines = Self {
            path: path.to_owned(),
            mode,
            file,
            lines: values.len(),
            torn: text.last().is_some_and(|byte| *byte != b'\n'),
            of: PhantomData,
        };
        Ok((lines, values))
    }

    /// Appends a line for each value. When this returns they survive `kill -9`; with `sync` the loss
    /// of power, too. After an error [`JsonLines::is_due`] holds until the file is made anew.
    pub(crate) fn append<'a>(
        &mut self,
        values: impl IntoIterator<Item = &'a T>,
        sync: bool,
    ) -> Result<(), LinesError>
    where
        T: 'a,
    {
        let (bytes, count) = self.encode(values)?;
        if bytes.is_empty() {
            return Ok(());
        }
        let mut written = self.file.write_all(&bytes);
        if sync && written.is_ok() {
            written = self.file.sync_data();
        }
        self.torn |= written.is_err();
        written.map_err(|source| self.unusable(source))?;
        self.lines += count;
        Ok(())
    }

    /// Whether the file should be made anew of the `live` values that count.
    pub(crate) fn is_due(&self, live: usize) -> bool {
        self.torn || self.lines > live.saturating_mul(2).saturating_add(OVERTAKEN_MAX)
    }

    /// Makes the file anew of `values`: it holds either its old lines or all of these.
    pub(crate) fn renew<'a>(
        &mut self,
        values: impl IntoIterator<Item = &'a T>,
    ) -> Result<(), LinesError>
    where
        T: 'a,
    {
        let (bytes, count) = self.encode(values)?;
        let renewed = replace(&self.path, &bytes, self.mode)
            .and_then(|()| OpenOptions::new().append(true).open(&self.path));
        self.file = renewed.map_err(|source| self.unusable(source))?;
        self.lines = count;
        self.torn = false;
        Ok(())
    }

    fn encode<'a>(
        &self,
        values: impl IntoIterator<Item = &'a T>,
    ) -> Result<(Vec<u8>, usize), LinesError>
    where
        T: 'a,
    {
        let (mut bytes, mut count) = (Vec::new(), 0);
        for value in values {
            serde_json::to_writer(&mut bytes, value).map_err(|e| self.unusable(e.into()))?;
            bytes.push(b'\n');
            count += 1;
        }
        Ok((bytes, count))
    }

    fn unusable(&self, source: io::Error) -> LinesError {
        LinesError::File {
            file: self.path.clone(),
            source,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: &Path) -> (JsonLines<u64>, Vec<u64>) {
        JsonLines::open(path, 0o600).unwrap()
    }

    #[test]
    fn what_is_appended_is_read_again_and_a_torn_end_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("numbers");
        let (mut lines, values) = open(&path);
        assert!(values.is_empty());
        lines.append(&[1, 2], true).unwrap();
        lines.append(&[30], false).unwrap();
        std::fs::write(&path, "1\n2\n3").unwrap();
        let (mut lines, values) = open(&path);
        assert_eq!(values, [1, 2]);
        assert!(lines.is_due(2), "going on would make one line of two");
        lines.renew(&values).unwrap();
        lines.append(&[4], true).unwrap();
        assert_eq!(open(&path).1, [1, 2, 4]);
    }

    #[test]
    fn a_bad_line_in_the_middle_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("numbers");
        std::fs::write(&path, "1\nx\n3\n").unwrap();
        let refused = JsonLines::<u64>::open(&path, 0o600).unwrap_err();
        assert!(refused.to_string().contains("numbers:2"), "{refused}");
    }

    #[test]
    fn a_file_of_overtaken_lines_is_due() {
        let dir = tempfile::tempdir().unwrap();
        let (mut lines, _) = open(&dir.path().join("numbers"));
        lines.append(&vec![7; OVERTAKEN_MAX + 2], false).unwrap();
        assert!(!lines.is_due(1));
        lines.append(&[7], false).unwrap();
        assert!(lines.is_due(1));
        lines.renew(&[7]).unwrap();
        assert!(!lines.is_due(1));
    }
}
