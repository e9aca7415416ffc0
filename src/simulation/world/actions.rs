//! Carries out the actions of a schedule.

use super::World;
use crate::client::Overflow;
use crate::emulator::virtual_service::Fault;
use crate::protocol::{SendEvent, SendToGroup, Upstream, encode_upstream};
use crate::session::{CallKind, Key};
use crate::simulation::checker::group_name;
use crate::simulation::client::{Prepared, ms};
use crate::simulation::schedule::{Action, Answer, LinkFault, What};

impl World {
    pub(super) fn act(&mut self, action: Action) {
        let now = self.now;
        match action {
            Action::Call { client, what, count, within, waits } => {
                for _ in 0..count {
                    self.call(client, what, within, waits);
                }
            }
            Action::Subscribe { client, group, within, waits, overflow } => {
                self.subscribe(client, group, within, waits, overflow);
            }
            Action::Unsubscribe { client, oldest } => {
                let Self { check, clients, .. } = self;
                clients[client].end_subscription(now, oldest, check);
            }
            Action::Publish { group, count, size } => self.publish(group, count, size),
            Action::Consumer { client, mode } => self.clients[client].consumer = mode,
            Action::Stall { client, ms: time } => {
                let until = &mut self.clients[client].stalled_until;
                *until = (*until).max(now + ms(time));
                self.clients[client].trouble += 1;
            }
            Action::Link { client, fault } => self.link_fault(client, fault),
            Action::Dial { client, fate } => self.clients[client].fates.push_back(fate),
            Action::Hub(fault) => {
                self.silent |= fault == Fault::SilentPings(true);
                for client in &mut self.clients {
                    client.trouble += 1;
                }
                self.faults += 1;
                self.service.fault(fault);
            }
            Action::AppCloses { client } => {
                if let Some(id) = self.connection(client) {
                    self.service.close_connection(&id);
                }
            }
            Action::Close { client } => {
                let client = &mut self.clients[client];
                client.closed_by_program = true;
                client.close(now, &mut self.check);
            }
        }
    }

    fn connection(&self, client: usize) -> Option<String> {
        let link = self.clients[client].link.as_ref()?;
        link.transport.connection_id().map(Into::into)
    }

    fn publish(&mut self, group: u8, count: u16, size: u16) {
        for _ in 0..count {
            self.published += 1;
            let text = text_of(0, self.published, size);
            self.service.send_to_group(self.now, &group_name(group), text);
        }
    }

    fn link_fault(&mut self, index: usize, fault: LinkFault) {
        let now = self.now;
        let id = self.connection(index);
        let client = &mut self.clients[index];
        client.trouble += 1;
        self.faults += 1;
        let (Some(link), Some(id)) = (&mut client.link, id) else { return };
        match fault {
            LinkFault::Fin => {
                link.fill(now);
                self.service.end(now, &link.transport);
                link.end_down(now);
                link.over = true;
            }
            LinkFault::Reset => {
                self.service.reset(now, &link.transport);
                link.reset(now);
            }
            LinkFault::BlackHole => link.black_hole(now),
            LinkFault::Slow { bytes_per_ms } => link.slow(bytes_per_ms),
            LinkFault::Close { code } => self.service.close_with(now, &id, code),
            LinkFault::CloseWithoutCode => {
                link.fill(now);
                link.close_down(now, None);
            }
            LinkFault::LostClose { code } => {
                self.service.close_with(now, &id, code);
                link.reset(now);
            }
        }
    }

    fn subscribe(&mut self, index: usize, group: u8, within: u32, waits: bool, overflow: Overflow) {
        let Self { now, check, clients, .. } = self;
        let client = &mut clients[index];
        let place = client.prepare_subscription(&group_name(group), overflow);
        if waits {
            self.call_for(index, What::Subscribe(group), within, true, Some(place));
        } else {
            client.subscribe_in_background(*now, place, check);
        }
    }

    pub(super) fn call(&mut self, index: usize, what: What, within: u32, waits: bool) {
        self.call_for(index, what, within, waits, None);
    }

    /// `joins`: the place of the subscription that the call is the join of.
    fn call_for(
        &mut self,
        index: usize,
        what: What,
        within: u32,
        waits: bool,
        joins: Option<usize>,
    ) {
        let Self { now, check, clients, .. } = self;
        let client = &mut clients[index];
        let fire = matches!(what, What::Fire { .. });
        let ack_id = (!fire).then(|| client.next_id());
        let number = check.next_number(index) as u64;
        let (kind, message) = match what {
            What::Join(group) => {
                let name = group_name(group);
                let kind = CallKind::Join(name.as_str().into());
                (kind, Upstream::JoinGroup { group: name.into(), ack_id })
            }
            What::Subscribe(group) => {
                let name = group_name(group);
                let kind = CallKind::Subscribe(name.as_str().into());
                (kind, Upstream::JoinGroup { group: name.into(), ack_id })
            }
            What::Leave(group) => {
                let name = group_name(group);
                let kind = CallKind::Leave(name.as_str().into());
                (kind, Upstream::LeaveGroup { group: name.into(), ack_id })
            }
            What::Send { group, size } | What::Fire { group, size } => {
                let mut send =
                    SendToGroup::new(group_name(group), text_of(index + 1, number, size));
                send.ack_id = ack_id;
                (CallKind::Message, Upstream::SendToGroup(send))
            }
            What::Event { handler, answer } => {
                let mut event = SendEvent::new("e", payload_of(handler, answer));
                event.ack_id = ack_id;
                (CallKind::Event, Upstream::Event(event))
            }
        };
        let Ok(frame) = encode_upstream(client.setup.protocol, &message) else {
            return check.fail("a message that cannot be encoded");
        };
        let deadline = *now + ms(within.max(1));
        let token = check.called(index, what, ack_id, deadline, &frame);
        let key = ack_id.map_or(Key::Unacked(0), Key::Ack);
        let call = Prepared { token, key, kind, frame, deadline, fire, waits, joins };
        client.call(*now, call, check);
    }
}

fn text_of(sender: usize, number: u64, size: u16) -> String {
    let mut text = format!("{sender}:{number}:");
    text.push_str(&"x".repeat(size.into()));
    text
}

fn payload_of(handler: u32, answer: Answer) -> String {
    format!("{handler} {answer:?}")
}
