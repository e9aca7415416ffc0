//! What watches of group states share with the reader.
//!
//! The reader merges what comes into the [`GroupStates`] of each watch of the group, and wakes who waits
//! there. It needs no queue: there is one change for each member at most, however slowly they are read.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::super::wake::WakeHook;
use crate::error::{Error, ErrorKind, Result};
use crate::message::Event;
use crate::protocol::GroupStateItem;
use crate::session::{Change, GroupStates};

/// A new connection has not taken a state of this group: the client's own, or those that are watched.
#[derive(Debug)]
pub(in crate::client) struct StateLost {
    pub(in crate::client) group: Arc<str>,
    pub(in crate::client) watch: bool,
    pub(in crate::client) error: Error,
}

/// The watches of a client, by group. Its lock is a leaf, taken by the reader only for messages about
/// states and for events of the connection.
#[derive(Debug, Default)]
pub(in crate::client) struct Watches(Mutex<All>);

#[derive(Debug, Default)]
struct All {
    groups: HashMap<Arc<str>, Vec<Arc<Watch>>>,
    /// The number of the last message about states on the present connection. A recovery brings some of
    /// them again.
    seen: u64,
}

/// One watch.
#[derive(Debug)]
pub(super) struct Watch {
    state: Mutex<WatchState>,
    changed: Condvar,
    hook: Option<Arc<WakeHook>>,
}

#[derive(Debug, Default)]
pub(super) struct WatchState {
    pub(super) states: GroupStates,
    /// Why nothing more comes.
    pub(super) end: Option<Error>,
}

impl All {
    fn of(&self, group: &str) -> impl Iterator<Item = &Arc<Watch>> {
        self.groups.get(group).into_iter().flatten()
    }

    /// False for a message that has come before.
    fn is_new(&mut self, number: Option<u64>) -> bool {
        let Some(number) = number else { return true };
        let is_new = number > self.seen;
        self.seen = self.seen.max(number);
        is_new
    }
}

impl Watches {
    fn lock(&self) -> MutexGuard<'_, All> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, group: &Arc<str>, watch: &Arc<Watch>) {
        self.lock().groups.entry(Arc::clone(group)).or_default().push(Arc::clone(watch));
    }

    pub(super) fn remove(&self, group: &str, watch: &Arc<Watch>) {
        let groups = &mut self.lock().groups;
        if let Some(watches) = groups.get_mut(group) {
            watches.retain(|other| !Arc::ptr_eq(other, watch));
            if watches.is_empty() {
                groups.remove(group);
            }
        }
    }

    /// The service's list of a group (`list`), or what has changed in it. `number`: the message's.
    pub(in crate::client) fn report(
        &self,
        now: Instant,
        number: Option<u64>,
        group: &str,
        list: bool,
        items: Vec<GroupStateItem>,
    ) {
        let mut all = self.lock();
        if !all.is_new(number) {
            return;
        }
        for watch in all.of(group) {
            let items = items.clone();
            watch.feed(|WatchState { states, .. }| match list {
                true => states.snapshot(now, items),
                false => states.update(now, items),
            });
        }
    }

    pub(in crate::client) fn lifecycle(&self, event: &Event) {
        match event {
            Event::Connected(_) => {
                let mut all = self.lock();
                all.seen = 0;
                for watch in all.groups.values().flatten() {
                    watch.feed(|state| state.states.new_connection());
                }
            }
            Event::JoinFailed(failed) => self.end(&failed.group, &failed.error),
            Event::Stopped(stopped) => {
                for watch in self.lock().groups.values().flatten() {
                    watch.end(&stopped.cause);
                }
            }
            _ => {}
        }
    }

    pub(in crate::client) fn lost(&self, lost: &StateLost) {
        if lost.watch {
            self.end(&lost.group, &lost.error);
        }
    }

    fn end(&self, group: &str, cause: &Error) {
        for watch in self.lock().of(group) {
            watch.end(cause);
        }
    }
}

impl Watch {
    pub(super) fn new(hook: Option<Arc<WakeHook>>) -> Self {
        Self { state: Mutex::default(), changed: Condvar::new(), hook }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, WatchState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn feed(&self, act: impl FnOnce(&mut WatchState)) {
        let mut state = self.lock();
        // The end is the last that is told of it, even if a later connection could watch again.
        if state.end.is_some() {
            return;
        }
        let nothing_before = !state.states.has_change();
        act(&mut state);
        let first = nothing_before && (state.states.has_change() || state.end.is_some());
        drop(state);
        // Also for who waits for the first list, which is no change.
        self.changed.notify_all();
        if let (true, Some(hook)) = (first, &self.hook) {
            hook.request();
        }
    }

    /// The first cause stays.
    fn end(&self, cause: &Error) {
        self.feed(|state| state.end = Some(cause.clone()));
    }

    /// The next change, waiting for it at most until then; `None`: without end.
    pub(super) fn next(&self, until: Option<Instant>) -> Result<Option<Change>> {
        self.wait(until, |state| state.states.next_change())
    }

    /// Waits until the service's list of the present connection has come.
    pub(super) fn first_list(&self, until: Instant) -> Result<()> {
        let listed = self.wait(Some(until), |state| state.states.is_listed().then_some(()))?;
        listed.ok_or_else(|| {
            let text = "the service sent no list of the group's states within the time limit";
            Error::new(ErrorKind::Timeout, text).maybe_delivered(true)
        })
    }

    fn wait<T>(
        &self,
        until: Option<Instant>,
        mut look: impl FnMut(&mut WatchState) -> Option<T>,
    ) -> Result<Option<T>> {
        let mut state = self.lock();
        loop {
            if let Some(found) = look(&mut state) {
                return Ok(Some(found));
            }
            if let Some(cause) = &state.end {
                return Err(cause.clone());
            }
            state = match until {
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(until) => {
                    let left = until.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Ok(None);
                    }
                    let waited = self.changed.wait_timeout(state, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(connection_id: &str, updated_at: i64) -> GroupStateItem {
        let state = Some([("k".to_owned(), "v".to_owned())].into());
        GroupStateItem { connection_id: connection_id.into(), user_id: None, state, updated_at }
    }

    fn watched() -> (Watches, Arc<Watch>, Instant) {
        let (watches, watch) = (Watches::default(), Arc::new(Watch::new(None)));
        watches.add(&"g".into(), &watch);
        (watches, watch, Instant::now())
    }

    #[test]
    fn what_comes_again_is_not_looked_at() {
        let (watches, watch, now) = watched();
        watches.report(now, Some(1), "g", true, vec![item("a", 1)]);
        watches.report(now, Some(2), "g", false, vec![item("b", 2)]);
        assert!(matches!(watch.next(Some(now)), Ok(Some(Change::Set(_)))));
        watches.report(now, Some(1), "g", true, vec![item("a", 1)]);
        watches.report(now, Some(2), "g", false, vec![item("b", 2)]);
        assert!(matches!(watch.next(Some(now)), Ok(None)));
        // A plain connection numbers nothing.
        watches.report(now, None, "g", true, vec![]);
        assert!(matches!(watch.next(Some(now)), Ok(Some(Change::Replaced))));
    }

    #[test]
    fn nothing_follows_the_end() {
        let (watches, watch, now) = watched();
        watches.report(now, None, "g", true, vec![item("a", 1)]);
        watches.report(now, None, "g", false, vec![item("b", 2)]);
        let error = Error::new(ErrorKind::Refused, "no role");
        watches.lost(&StateLost { group: "g".into(), watch: true, error });
        watches.report(now, None, "g", false, vec![item("c", 3)]);
        watches.lifecycle(&Event::Stopped(crate::message::Stopped { cause: Error::closed() }));
        // What had come before is still there to be read.
        assert!(matches!(watch.next(Some(now)), Ok(Some(Change::Set(_)))));
        assert_eq!(watch.next(None).expect_err("the end").kind(), ErrorKind::Refused);
        assert_eq!(watch.lock().states.members().len(), 2);
        watches.remove("g", &watch);
        assert!(watches.lock().groups.is_empty());
    }
}
