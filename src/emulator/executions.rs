//! Which requests were carried out how often.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// How often each ack id of each connection was carried out. Sessions that ended are remembered
/// too (the last 1000), because tests ask afterwards.
#[derive(Debug, Default)]
pub(super) struct Executions {
    by_connection: HashMap<Arc<str>, HashMap<u64, u32>>,
    ended: VecDeque<Arc<str>>,
}

impl Executions {
    /// Per connection; beyond it new ids are no longer counted, so that a load test stays bounded.
    const IDS: usize = 1 << 17;
    const ENDED: usize = 1000;

    /// Counts one; returns how often it was by now.
    pub(super) fn count(&mut self, connection: &Arc<str>, ack_id: u64) -> u32 {
        let ids = match self.by_connection.get_mut(connection) {
            Some(ids) => ids,
            None => self.by_connection.entry(Arc::clone(connection)).or_default(),
        };
        if ids.len() >= Self::IDS && !ids.contains_key(&ack_id) {
            return 1;
        }
        let count = ids.entry(ack_id).or_default();
        *count += 1;
        *count
    }

    pub(super) fn get(&self, connection: &str, ack_id: u64) -> u32 {
        self.by_connection.get(connection).and_then(|ids| ids.get(&ack_id)).copied().unwrap_or(0)
    }

    pub(super) fn retire(&mut self, connection: &Arc<str>) {
        if !self.by_connection.contains_key(connection) {
            return;
        }
        self.ended.push_back(Arc::clone(connection));
        if self.ended.len() > Self::ENDED
            && let Some(old) = self.ended.pop_front()
        {
            self.by_connection.remove(&old);
        }
    }
}
