//! Names that repeat: groups and users.

use std::collections::HashSet;
use std::sync::Arc;

/// A bounded set of strings seen before.
#[derive(Debug, Default)]
pub(crate) struct Names {
    /// The last two, the newest first: a message has a group and a user.
    last: [Option<Arc<str>>; 2],
    seen: HashSet<Arc<str>>,
}

impl Names {
    /// Past this many the set starts afresh: a hub with a user id per message must not grow it.
    const LIMIT: usize = 4096;

    pub(crate) fn intern(&mut self, name: &str) -> Arc<str> {
        if let Some(at) = self.last.iter().position(|l| l.as_deref() == Some(name)) {
            self.last.swap(0, at);
            if let Some(last) = &self.last[0] {
                return Arc::clone(last);
            }
        }
        let found = match self.seen.get(name) {
            Some(found) => Arc::clone(found),
            None => {
                if self.seen.len() >= Self::LIMIT {
                    self.seen.clear();
                }
                let new: Arc<str> = Arc::from(name);
                self.seen.insert(Arc::clone(&new));
                new
            }
        };
        self.last.swap(0, 1);
        self.last[0] = Some(Arc::clone(&found));
        found
    }
}
