//! Fields as bytes: `u16 id | u8 kind | u32 len | value`, ids ascending.

use crate::{Hash, Time};

const BOOL: u8 = 1;
const I64: u8 = 2;
const U64: u8 = 3;
const BYTES: u8 = 4;
const TEXT: u8 = 5;
const TIME: u8 = 6;
const LIST: u8 = 7;

/// Why bytes are not the fields that were expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TlvError {
    /// The bytes end inside a field, or the domain string is another one.
    #[error("the bytes end early or do not begin with the expected domain")]
    Cut,
    /// A field id is not above the one before it.
    #[error("field {0} is out of order or repeated")]
    Order(u16),
    /// A field's kind or length is none that exists.
    #[error("field {0} has an unknown kind or a wrong length")]
    Malformed(u16),
    /// A text field is not UTF-8.
    #[error("field {0} is not valid UTF-8")]
    NotUtf8(u16),
    /// A field that must be there is not.
    #[error("field {0} is missing")]
    Missing(u16),
    /// A field is of another kind than it must be, or its value is out of range.
    #[error("field {0} has the wrong kind or value")]
    Wrong(u16),
    /// A field that this version does not know.
    #[error("field {0} is unknown here")]
    Unknown(u16),
}

/// Appends fields to a buffer.
///
/// Ids must ascend from call to call; that is asserted in debug builds.
#[derive(Debug)]
pub struct Encoder<'a> {
    out: &'a mut Vec<u8>,
    last: Option<u16>,
}

impl<'a> Encoder<'a> {
    /// An encoder that appends to `out`.
    pub const fn new(out: &'a mut Vec<u8>) -> Self {
        Self { out, last: None }
    }

    /// Appends a boolean.
    pub fn bool(&mut self, id: u16, value: bool) -> &mut Self {
        self.field(id, BOOL, &[u8::from(value)])
    }

    /// Appends a signed integer.
    pub fn i64(&mut self, id: u16, value: i64) -> &mut Self {
        self.field(id, I64, &value.to_be_bytes())
    }

    /// Appends an unsigned integer.
    pub fn u64(&mut self, id: u16, value: u64) -> &mut Self {
        self.field(id, U64, &value.to_be_bytes())
    }

    /// Appends bytes.
    pub fn bytes(&mut self, id: u16, value: &[u8]) -> &mut Self {
        self.field(id, BYTES, value)
    }

    /// Appends a text.
    pub fn text(&mut self, id: u16, value: &str) -> &mut Self {
        self.field(id, TEXT, value.as_bytes())
    }

    /// Appends a time.
    pub fn time(&mut self, id: u16, value: Time) -> &mut Self {
        self.field(id, TIME, &value.as_ns().to_be_bytes())
    }

    /// Appends a signed integer unless it is null.
    pub fn i64_opt(&mut self, id: u16, value: Option<i64>) -> &mut Self {
        if let Some(value) = value {
            self.i64(id, value);
        }
        self
    }

    /// Appends an unsigned integer unless it is null.
    pub fn u64_opt(&mut self, id: u16, value: Option<u64>) -> &mut Self {
        if let Some(value) = value {
            self.u64(id, value);
        }
        self
    }

    /// Appends bytes unless they are null.
    pub fn bytes_opt(&mut self, id: u16, value: Option<&[u8]>) -> &mut Self {
        if let Some(value) = value {
            self.bytes(id, value);
        }
        self
    }

    /// Appends a text unless it is null.
    pub fn text_opt(&mut self, id: u16, value: Option<&str>) -> &mut Self {
        if let Some(value) = value {
            self.text(id, value);
        }
        self
    }

    /// Appends a time unless it is null.
    pub fn time_opt(&mut self, id: u16, value: Option<Time>) -> &mut Self {
        if let Some(value) = value {
            self.time(id, value);
        }
        self
    }

    /// Appends a list of texts.
    pub fn texts<T: AsRef<str>>(&mut self, id: u16, values: &[T]) -> &mut Self {
        self.list(
            id,
            TEXT,
            values.iter().map(|value| value.as_ref().as_bytes()),
        )
    }

    /// Appends a list of bytes.
    pub fn list_bytes<T: AsRef<[u8]>>(&mut self, id: u16, values: &[T]) -> &mut Self {
        self.list(id, BYTES, values.iter().map(AsRef::as_ref))
    }

    /// Appends a field that was decoded before, unchanged.
    pub fn field_of(&mut self, id: u16, field: &Field<'_>) -> &mut Self {
        match field {
            Field::Bool(value) => self.bool(id, *value),
            Field::I64(value) => self.i64(id, *value),
            Field::U64(value) => self.u64(id, *value),
            Field::Bytes(value) => self.bytes(id, value),
            Field::Text(value) => self.text(id, value),
            Field::Time(value) => self.time(id, *value),
            Field::List(list) => self.field(id, LIST, list.0),
        }
    }

    fn list<'v>(
        &mut self,
        id: u16,
        kind: u8,
        values: impl ExactSizeIterator<Item = &'v [u8]> + Clone,
    ) -> &mut Self {
        let count = values.len();
        let len = values.clone().map(|value| 5 + value.len()).sum::<usize>() + 4;
        self.head(id, LIST, len);
        self.out.extend_from_slice(&length(count));
        for value in values {
            self.out.push(kind);
            self.out.extend_from_slice(&length(value.len()));
            self.out.extend_from_slice(value);
        }
        self
    }

    fn field(&mut self, id: u16, kind: u8, value: &[u8]) -> &mut Self {
        self.head(id, kind, value.len());
        self.out.extend_from_slice(value);
        self
    }

    fn head(&mut self, id: u16, kind: u8, len: usize) {
        debug_assert!(self.last < Some(id), "field ids ascend");
        self.last = Some(id);
        self.out.extend_from_slice(&id.to_be_bytes());
        self.out.push(kind);
        self.out.extend_from_slice(&length(len));
    }
}

/// A length as it is written. Values of 4 GiB and more do not exist: entries are bounded by the
/// largest batch (4 MiB).
fn length(len: usize) -> [u8; 4] {
    u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes()
}

/// One decoded value, borrowing its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Field<'a> {
    /// A boolean.
    Bool(bool),
    /// A signed integer.
    I64(i64),
    /// An unsigned integer.
    U64(u64),
    /// Bytes.
    Bytes(&'a [u8]),
    /// A text.
    Text(&'a str),
    /// A time.
    Time(Time),
    /// A list, checked when it was decoded.
    List(List<'a>),
}

/// A list whose items were checked when it was decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct List<'a>(&'a [u8]);

impl<'a> List<'a> {
    /// Number of items.
    #[must_use]
    pub fn len(&self) -> usize {
        self.iter().count()
    }

    /// Whether there is no item.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The items in order.
    pub fn iter(&self) -> impl Iterator<Item = Field<'a>> + use<'a> {
        let mut rest = self.0.get(4..).unwrap_or_default();
        std::iter::from_fn(move || take_value(&mut rest, 0, false).ok())
    }
}

/// Walks over the fields of a byte string; stops at the first error.
#[derive(Debug, Clone)]
pub struct Decoder<'a> {
    rest: &'a [u8],
    last: Option<u16>,
}

impl<'a> Decoder<'a> {
    /// A decoder over `bytes`, which hold fields and nothing else.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self {
            rest: bytes,
            last: None,
        }
    }

    fn next_field(&mut self) -> Result<(u16, Field<'a>), TlvError> {
        let id = u16::from_be_bytes(take(&mut self.rest)?);
        if self.last >= Some(id) {
            return Err(TlvError::Order(id));
        }
        self.last = Some(id);
        take_value(&mut self.rest, id, true).map(|field| (id, field))
    }
}

impl<'a> Iterator for Decoder<'a> {
    type Item = Result<(u16, Field<'a>), TlvError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.next_field();
        if field.is_err() {
            self.rest = &[];
        }
        Some(field)
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], TlvError> {
    let (head, tail) = rest.split_first_chunk::<N>().ok_or(TlvError::Cut)?;
    *rest = tail;
    Ok(*head)
}

fn take_value<'a>(rest: &mut &'a [u8], id: u16, lists: bool) -> Result<Field<'a>, TlvError> {
    let [kind] = take(rest)?;
    let len = usize::try_from(u32::from_be_bytes(take(rest)?)).map_err(|_| TlvError::Cut)?;
    let (value, tail) = rest.split_at_checked(len).ok_or(TlvError::Cut)?;
    *rest = tail;
    let number = || <[u8; 8]>::try_from(value).map_err(|_| TlvError::Malformed(id));
    Ok(match kind {
        BOOL => match value {
            [0] => Field::Bool(false),
            [1] => Field::Bool(true),
            _ => return Err(TlvError::Malformed(id)),
        },
        I64 => Field::I64(i64::from_be_bytes(number()?)),
        U64 => Field::U64(u64::from_be_bytes(number()?)),
        BYTES => Field::Bytes(value),
        TEXT => Field::Text(std::str::from_utf8(value).map_err(|_| TlvError::NotUtf8(id))?),
        TIME => Field::Time(Time::from_ns(i64::from_be_bytes(number()?))),
        LIST if lists => {
            check_list(value, id)?;
            Field::List(List(value))
        }
        _ => return Err(TlvError::Malformed(id)),
    })
}

fn check_list(value: &[u8], id: u16) -> Result<(), TlvError> {
    let mut rest = value;
    let count = u32::from_be_bytes(take(&mut rest)?);
    for _ in 0..count {
        take_value(&mut rest, id, false)?;
    }
    if rest.is_empty() {
        Ok(())
    } else {
        Err(TlvError::Malformed(id))
    }
}

/// All fields of a byte string, asked for by id.
///
/// A getter without `_opt` fails with [`TlvError::Missing`] when the field is absent; every getter
/// fails with [`TlvError::Wrong`] when it is of another kind.
#[derive(Debug, Clone)]
pub struct Fields<'a>(Vec<(u16, Field<'a>)>);

impl<'a> Fields<'a> {
    /// Decodes `bytes`, which hold fields and nothing else.
    ///
    /// # Errors
    /// When the bytes are no strict TLV sequence.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, TlvError> {
        Decoder::new(bytes).collect::<Result<_, _>>().map(Self)
    }

    /// Decodes what follows `domain` in `bytes`.
    ///
    /// # Errors
    /// [`TlvError::Cut`] when the bytes do not begin with `domain`; else as [`Fields::parse`].
    pub fn parse_after(domain: &[u8], bytes: &'a [u8]) -> Result<Self, TlvError> {
        Self::parse(bytes.strip_prefix(domain).ok_or(TlvError::Cut)?)
    }

    /// Refuses a field whose id is not in `known`.
    ///
    /// # Errors
    /// [`TlvError::Unknown`] with the first such id.
    pub fn only(&self, known: &[u16]) -> Result<(), TlvError> {
        match self.0.iter().find(|(id, _)| !known.contains(id)) {
            Some((id, _)) => Err(TlvError::Unknown(*id)),
            None => Ok(()),
        }
    }

    /// The field `id` of whatever kind.
    #[must_use]
    pub fn find(&self, id: u16) -> Option<&Field<'a>> {
        self.0
            .iter()
            .find(|(at, _)| *at == id)
            .map(|(_, field)| field)
    }

    fn opt<T>(
        &self,
        id: u16,
        pick: impl FnOnce(&Field<'a>) -> Option<T>,
    ) -> Result<Option<T>, TlvError> {
        self.find(id)
            .map(|field| pick(field).ok_or(TlvError::Wrong(id)))
            .transpose()
    }
}

/// A getter that must find its field, made of the one that may not.
fn must<T>(id: u16, found: Result<Option<T>, TlvError>) -> Result<T, TlvError> {
    found?.ok_or(TlvError::Missing(id))
}

#[expect(
    clippy::missing_errors_doc,
    reason = "the errors of all getters stand at the type"
)]
impl<'a> Fields<'a> {
    /// A boolean.
    pub fn bool(&self, id: u16) -> Result<bool, TlvError> {
        must(
            id,
            self.opt(id, |field| {
                if let Field::Bool(v) = field {
                    Some(*v)
                } else {
                    None
                }
            }),
        )
    }

    /// A signed integer or null.
    pub fn i64_opt(&self, id: u16) -> Result<Option<i64>, TlvError> {
        self.opt(id, |field| {
            if let Field::I64(v) = field {
                Some(*v)
            } else {
                None
            }
        })
    }

    /// An unsigned integer.
    pub fn u64(&self, id: u16) -> Result<u64, TlvError> {
        must(id, self.u64_opt(id))
    }

    /// An unsigned integer or null.
    pub fn u64_opt(&self, id: u16) -> Result<Option<u64>, TlvError> {
        self.opt(id, |field| {
            if let Field::U64(v) = field {
                Some(*v)
            } else {
                None
            }
        })
    }

    /// An unsigned integer that fits 16 bits, or null.
    pub fn u16_opt(&self, id: u16) -> Result<Option<u16>, TlvError> {
        self.opt(id, |field| {
            if let Field::U64(v) = field {
                u16::try_from(*v).ok()
            } else {
                None
            }
        })
    }

    /// Bytes.
    pub fn bytes(&self, id: u16) -> Result<&'a [u8], TlvError> {
        must(id, self.bytes_opt(id))
    }

    /// Bytes or null.
    pub fn bytes_opt(&self, id: u16) -> Result<Option<&'a [u8]>, TlvError> {
        self.opt(id, |field| {
            if let Field::Bytes(v) = field {
                Some(*v)
            } else {
                None
            }
        })
    }

    /// Exactly `N` bytes or null.
    pub fn array_opt<const N: usize>(&self, id: u16) -> Result<Option<[u8; N]>, TlvError> {
        self.opt(id, |field| {
            if let Field::Bytes(v) = field {
                <[u8; N]>::try_from(*v).ok()
            } else {
                None
            }
        })
    }

    /// A hash.
    pub fn hash(&self, id: u16) -> Result<Hash, TlvError> {
        must(id, self.hash_opt(id))
    }

    /// A hash or null.
    pub fn hash_opt(&self, id: u16) -> Result<Option<Hash>, TlvError> {
        Ok(self.array_opt(id)?.map(Hash))
    }

    /// A text.
    pub fn text(&self, id: u16) -> Result<&'a str, TlvError> {
        must(id, self.text_opt(id))
    }

    /// A text or null.
    pub fn text_opt(&self, id: u16) -> Result<Option<&'a str>, TlvError> {
        self.opt(id, |field| {
            if let Field::Text(v) = field {
                Some(*v)
            } else {
                None
            }
        })
    }

    /// A time.
    pub fn time(&self, id: u16) -> Result<Time, TlvError> {
        must(id, self.time_opt(id))
    }

    /// A time or null.
    pub fn time_opt(&self, id: u16) -> Result<Option<Time>, TlvError> {
        self.opt(id, |field| {
            if let Field::Time(v) = field {
                Some(*v)
            } else {
                None
            }
        })
    }

    /// A list of any items; null is the error.
    pub fn list(&self, id: u16) -> Result<Vec<Field<'a>>, TlvError> {
        must(
            id,
            self.opt(id, |field| {
                if let Field::List(v) = field {
                    Some(v.iter().collect())
                } else {
                    None
                }
            }),
        )
    }

    /// A list of bytes.
    pub fn list_bytes(&self, id: u16) -> Result<Vec<&'a [u8]>, TlvError> {
        self.list(id)?
            .into_iter()
            .map(|item| {
                if let Field::Bytes(v) = item {
                    Ok(v)
                } else {
                    Err(TlvError::Wrong(id))
                }
            })
            .collect()
    }

    /// A list of texts.
    pub fn texts(&self, id: u16) -> Result<Vec<&'a str>, TlvError> {
        self.list(id)?
            .into_iter()
            .map(|item| {
                if let Field::Text(v) = item {
                    Ok(v)
                } else {
                    Err(TlvError::Wrong(id))
                }
            })
            .collect()
    }

    /// A list of texts, or null.
    pub fn texts_opt(&self, id: u16) -> Result<Option<Vec<&'a str>>, TlvError> {
        if self.find(id).is_some() {
            self.texts(id).map(Some)
        } else {
            Ok(None)
        }
    }
}
