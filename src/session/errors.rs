//! What callers are told when a call fails.

use std::borrow::Cow;

use super::call::{Call, CallKind};
use super::config::Config;
use super::delivery::Unread;
use super::loss::Loss;
use crate::auth::Role;
use crate::error::{Error, ErrorKind};
use crate::protocol::group_of;

pub(super) fn refused<W>(name: &str, message: &str, call: &Call<W>) -> Error {
    let mut text = String::from("the service refused the call");
    for part in [name, message] {
        if !part.is_empty() {
            text.extend([": ", part]);
        }
    }
    if name == "Forbidden"
        && let Some((role, constructor)) = missing_role(call)
    {
        // The service does not always say which of the two it is.
        if call.kind.is_of_state() {
            text.push_str(" (the client must be a member of the group, and ");
        } else {
            text.push_str(" (");
        }
        text.extend(["the access token needs the role `", role.as_str(), "`: give `"]);
        text.extend([constructor, "` to `ClientAccess::role`)"]);
    }
    let error = Error::new(ErrorKind::Refused, text).with_service_name(name);
    // It failed inside the service or the app's event handler: it may have done part of its work.
    let not_begun = matches!(name, "Forbidden" | "BadRequest" | "NotFound");
    // An earlier connection may have executed it all the same.
    error.maybe_delivered(call.written_before || !not_begun)
}

/// The role that allows the call, and what makes it.
fn missing_role<W>(call: &Call<W>) -> Option<(Role, &'static str)> {
    if let Some(group) = call.kind.group() {
        return Some((Role::join_leave_group(group), "Role::join_leave_group"));
    }
    match &call.kind {
        CallKind::SetState(group) | CallKind::ClearState(group) | CallKind::RestoreState(group) => {
            return Some((Role::set_group_state_group(group), "Role::set_group_state_group"));
        }
        CallKind::WatchState(group) | CallKind::RewatchState(group) => {
            return Some((Role::get_group_state_group(group), "Role::get_group_state_group"));
        }
        _ => {}
    }
    // Only its frame knows the group of a publication: a field for it would cost each of them.
    match call.kind {
        CallKind::Message => {
            Some((Role::send_to_group(group_of(&call.frame)?), "Role::send_to_group"))
        }
        _ => None,
    }
}

/// `awaited`: what did not come. `queue_full`: what is unread, if a queue is full.
pub(super) fn timed_out(awaited: &str, written: bool, queue_full: Option<&Unread>) -> Error {
    let text: Cow<'static, str> = if written {
        format!(
            "no {awaited} came within the time limit of the call; the service may have executed it"
        )
        .into()
    } else {
        "the call could not be sent within its time limit; nothing was sent".into()
    };
    let text = match queue_full {
        None => text,
        Some(unread) => Cow::Owned(format!("{text}; {}", nothing_is_read(unread))),
    };
    Error::new(ErrorKind::Timeout, text).maybe_delivered(written)
}

pub(super) fn cancelled() -> Error {
    Error::new(ErrorKind::Cancelled, "the call was cancelled before it was sent")
}

/// No room for a call among those that have no outcome yet: for one that waited for its turn, or for
/// one that does not wait.
pub(super) fn no_room(config: &Config, calls: usize, bytes: usize, waited: bool) -> Error {
    let (kind, how) = match waited {
        true => (ErrorKind::Timeout, "the call found no room within its time limit"),
        false => (ErrorKind::WouldBlock, "there is no room for the call at the moment"),
    };
    let why = if calls >= config.max_pending_calls {
        format!("{calls} calls have no outcome yet, the most that `max_pending_calls` allows")
    } else {
        let most = config.max_pending_bytes;
        format!("{bytes} bytes wait to be written, and `max_pending_bytes` allows {most}")
    };
    Error::new(kind, format!("{how}; nothing was sent: {why}"))
}

/// The cause of a loss, or the full queue that may be behind it, with that cause.
pub(super) fn lost(cause: &Error, queue_full: Option<&Unread>) -> Error {
    let Some(unread) = queue_full else { return cause.clone() };
    Error::new(cause.kind(), format!("the connection was lost; {}", nothing_is_read(unread)))
        .with_facts_of(cause)
        .with_source(cause.clone())
        .maybe_delivered(cause.may_have_been_delivered())
}

/// An error of the link, with the full queue that may be behind it.
pub(super) fn explained(error: Error, queue_full: Option<&Unread>) -> Error {
    let Some(unread) = queue_full else { return error };
    Error::new(error.kind(), format!("{error}; {}", nothing_is_read(unread)))
        .with_facts_of(&error)
        .maybe_delivered(error.may_have_been_delivered())
}

fn nothing_is_read(unread: &Unread) -> String {
    let (queue, remedy) = match &unread.group {
        None => {
            ("the event queue".into(), "read `events()`, or use `event_queue(None)` or `no_echo`")
        }
        Some(group) => (
            format!("the queue of a subscription of `{group}`"),
            "read it, or choose `Overflow::DropNewest` for it",
        ),
    };
    format!(
        "{queue} is full ({} unread), so reading from the connection falls behind or has stopped: \
         {remedy}",
        unread.messages
    )
}

/// For a call that the end of the client cuts short, or that comes after it.
pub(crate) fn ended_error(cause: &Error, written: bool) -> Error {
    if cause.is_closed() {
        return Error::closed().maybe_delivered(written);
    }
    Error::new(cause.kind(), "the client has stopped")
        .permanent()
        .with_facts_of(cause)
        .with_source(cause.clone())
        .maybe_delivered(written)
}

pub(super) fn not_started(cause: Error) -> Error {
    Error::new(
        ErrorKind::SessionStart,
        "the connection came up, but the service did not say `connected`",
    )
    .with_close_code(cause.close_code())
    .with_source(cause)
}

pub(super) fn outcome_unknown(why: &str) -> Error {
    Error::new(
        ErrorKind::OutcomeUnknown,
        format!("it is unknown whether the service executed the call: {why}"),
    )
    .maybe_delivered(true)
}

pub(super) fn broke_rule(loss: &Loss) -> Error {
    Error::new(
        ErrorKind::Refused,
        "the service closed the connection over something that was sent; the call is not repeated",
    )
    .with_close_code(loss.error.close_code())
    .with_source(loss.error.clone())
    .maybe_delivered(true)
}
