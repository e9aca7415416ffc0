//! What each log line of a client begins with, so that two clients can be told apart.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// The client's name if the program chose one; else the hub, and the id of the last connection.
#[derive(Debug)]
pub(super) struct Label {
    name: Option<String>,
    /// A leaf among the locks.
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    hub: Option<String>,
    connection_id: Option<Arc<str>>,
}

impl Label {
    pub(super) fn new(name: Option<String>) -> Self {
        Self { name, known: Mutex::default() }
    }

    pub(super) fn hub(&self, hub: Option<String>) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).hub = hub;
    }

    pub(super) fn connection(&self, id: &Arc<str>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        // The simple client's connections have none.
        known.connection_id = (!id.is_empty()).then(|| Arc::clone(id));
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(name) = &self.name {
            return write!(f, "[{name}]");
        }
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        // A URL provider has not been asked yet.
        write!(f, "[{}", known.hub.as_deref().unwrap_or("?"))?;
        if let Some(id) = &known.connection_id {
            write!(f, "/{id}")?;
        }
        f.write_str("]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_wins_over_hub_and_connection() {
        let label = Label::new(None);
        assert_eq!(label.to_string(), "[?]");
        label.hub(Some("chat".into()));
        assert_eq!(label.to_string(), "[chat]");
        label.connection(&"c1".into());
        assert_eq!(label.to_string(), "[chat/c1]");
        label.connection(&"".into());
        assert_eq!(label.to_string(), "[chat]");
        let named = Label::new(Some("prices".into()));
        named.hub(Some("chat".into()));
        assert_eq!(named.to_string(), "[prices]");
    }
}
