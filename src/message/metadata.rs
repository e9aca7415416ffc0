//! What travels beside a payload.

use std::collections::BTreeMap;
use std::fmt;

/// Metadata as it is on the wire.
pub(crate) type Entries = BTreeMap<String, String>;

/// Small string pairs that travel beside a payload, in the order of their keys.
///
/// ```
/// use webpubsub::Metadata;
///
/// let metadata = Metadata::from_iter([("Trace-Id", "7"), ("lang", "en")]);
/// assert_eq!(metadata.get("trace-id"), Some("7")); // ASCII case does not matter
/// assert_eq!(metadata.iter().count(), 2);
/// ```
// One pointer in each message, and null in most; an empty map that was sent is told from none.
#[derive(Clone, Default)]
pub struct Metadata(Option<Box<Entries>>);

impl Metadata {
    pub(crate) fn of(entries: Option<Entries>) -> Self {
        Self(entries.map(Box::new))
    }

    /// `None`: there was none, not even an empty map.
    pub(crate) fn entries(&self) -> Option<&Entries> {
        self.0.as_deref()
    }

    /// The value of a key, or of the first key that differs only in ASCII case.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        let entries = self.entries()?;
        let other_case = || entries.iter().find(|(k, _)| k.eq_ignore_ascii_case(key));
        entries.get(key).or_else(|| other_case().map(|(_, value)| value)).map(String::as_str)
    }

    /// True if there is nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries().is_none_or(BTreeMap::is_empty)
    }

    /// The pairs of keys and values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.entries().into_iter().flatten().map(|(key, value)| (key.as_str(), value.as_str()))
    }
}

impl PartialEq for Metadata {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Metadata {}

impl fmt::Debug for Metadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Metadata {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        Self::of(Some(pairs.into_iter().map(|(key, value)| (key.into(), value.into())).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_whatever_their_case_the_exact_one_first() {
        let metadata = Metadata::from_iter([("Key", "1"), ("key", "2"), ("other", "3")]);
        assert_eq!(metadata.get("key"), Some("2"));
        assert_eq!((metadata.get("KEY"), metadata.get("Other")), (Some("1"), Some("3")));
        assert_eq!(metadata.get("missing"), None);
        assert_eq!(format!("{metadata:?}"), r#"{"Key": "1", "key": "2", "other": "3"}"#);
    }

    #[test]
    fn nothing_equals_an_empty_map() {
        assert!(Metadata::default().is_empty());
        assert_eq!(Metadata::default(), Metadata::of(Some(Entries::new())));
        assert_eq!(size_of::<Metadata>(), size_of::<usize>());
    }
}
