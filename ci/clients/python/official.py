"""azure-messaging-webpubsubclient (the class with threads) against the emulator.

It raises each message in a thread of its own, so the order of the callbacks says nothing; over the
reliable protocol the sequence ids tell the order of arrival.
"""

import logging
import queue
import time
from contextlib import contextmanager

from azure.messaging.webpubsubclient import WebPubSubClient
from azure.messaging.webpubsubclient.models import (
    CallbackType,
    SendMessageError,
    WebPubSubDataType,
    WebPubSubProtocolType,
)

from common import STEP_S, WITHOUT_HANDLER, access_url, check, control, done, equal

TEXT, JSON, BINARY, PROTOBUF = (
    WebPubSubDataType.TEXT,
    WebPubSubDataType.JSON,
    WebPubSubDataType.BINARY,
    WebPubSubDataType.PROTOBUF,
)
PAYLOADS = [
    (TEXT, "Grüße, <b>&</b> 'quotes' \"and\" 👋\n"),
    (JSON, {"list": [1, 2.5, -3e10, True, None], "nested": {"text": "日本 👋"}}),
    (BINARY, memoryview(bytes([0, 1, 127, 128, 255]))),
    # A `google.protobuf.Any` with type URL "t/x" and two bytes.
    (PROTOBUF, memoryview(b"\x0a\x03t/x\x12\x02\x01\x02")),
]
GROUP = "room"
# It warns of each cut and each end.
logging.getLogger().addHandler(logging.NullHandler())


class Open:
    """A client that has connected, and all that it hears."""

    def __init__(self, protocol, retries=0, **access):
        self.client = WebPubSubClient(
            access_url(**access),
            protocol_type=protocol,
            # By default a refusal too is repeated, three times.
            message_retry_total=retries,
            message_retry_backoff_factor=0.2,
            reconnect_retry_backoff_factor=0.2,
            # An answer that comes before the client waits for it counts only after this time.
            ack_timeout=5,
            start_timeout=5,
        )
        self.group, self.server, self.connected, self.disconnected = (queue.Queue() for _ in range(4))
        self.client.subscribe(CallbackType.GROUP_MESSAGE, self.group.put)
        self.client.subscribe(CallbackType.SERVER_MESSAGE, self.server.put)
        self.client.subscribe(CallbackType.CONNECTED, self.connected.put)
        self.client.subscribe(CallbackType.DISCONNECTED, self.disconnected.put)
        self.client.open()
        self.first = self.connected.get(timeout=STEP_S)

    def message(self):
        return self.group.get(timeout=STEP_S)

    def payloads(self, count):
        """Those of this many messages, in the order of the wire if the protocol tells it."""
        messages = [self.message() for _ in range(count)]
        return [m.data for m in sorted(messages, key=lambda m: m.sequence_id or 0)]

    def no_more(self):
        """A message that should not be there has its own thread, so it may come late."""
        time.sleep(0.1)
        equal([m.data for m in list(self.group.queue)], [])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.client.close()


@contextmanager
def pair(protocol, retries=0):
    """A subscriber of the group, and a publisher that is no member."""
    with (
        Open(protocol, retries, user="subscriber") as subscriber,
        Open(protocol, retries, user="publisher") as publisher,
    ):
        subscriber.client.join_group(GROUP)
        yield subscriber, publisher


@contextmanager
def refused(name):
    try:
        yield
    except SendMessageError as error:
        equal(error.error_detail.name, name)
        assert error.error_detail.message, "the refusal says nothing"
    else:
        raise AssertionError(f"not refused with {name}")


def all_checks(name, protocol, reliable):
    with check(f"{name}: connects, with its user id"):
        with Open(protocol, user="us") as peer:
            assert peer.first.connection_id
            equal(peer.first.user_id, "us")

    for data_type, data in PAYLOADS:
        with check(f"{name}: {data_type.value} arrives as it was sent"):
            with pair(protocol) as (subscriber, publisher):
                publisher.client.send_to_group(GROUP, data, data_type)
                message = subscriber.message()
                equal((message.data_type, message.data), (data_type, data))
                equal((message.group, message.from_user_id), (GROUP, "publisher"))
                equal(message.sequence_id, 1 if reliable else None)

    with check(f"{name}: noEcho keeps a message from its sender only"):
        with pair(protocol) as (subscriber, publisher):
            publisher.client.join_group(GROUP)
            publisher.client.send_to_group(GROUP, "silent", TEXT, no_echo=True)
            publisher.client.send_to_group(GROUP, "loud", TEXT)
            equal(publisher.message().data, "loud")
            publisher.no_more()
            equal(sorted(subscriber.payloads(2)), ["loud", "silent"])

    with check(f"{name}: nothing arrives after leaving"):
        with pair(protocol) as (subscriber, publisher):
            subscriber.client.join_group("other")
            subscriber.client.leave_group(GROUP)
            publisher.client.send_to_group(GROUP, "unheard", TEXT)
            publisher.client.send_to_group("other", "heard", TEXT)
            equal(subscriber.message().data, "heard")
            subscriber.no_more()

    order = "in order" if reliable else "once each"
    with check(f"{name}: 2000 messages arrive {order}"):
        with pair(protocol) as (subscriber, publisher):
            for start in range(0, 2000, 200):
                batch = list(range(start, start + 200))
                for n in batch:
                    publisher.client.send_to_group(GROUP, n, JSON, ack=False)
                arrived = subscriber.payloads(len(batch))
                equal(arrived if reliable else sorted(arrived), batch)
                # The client acknowledges once a second, and the service holds 1000 messages.
                if reliable and start % 800 == 600:
                    time.sleep(1.1)
            subscriber.no_more()

    with check(f"{name}: a repeated ack id is a duplicate and runs once"):
        with pair(protocol) as (subscriber, publisher):
            publisher.client.send_to_group(GROUP, "once", TEXT, ack_id=77)
            # The client takes `Duplicate` for success and does not say so.
            publisher.client.send_to_group(GROUP, "again", TEXT, ack_id=77)
            publisher.client.send_to_group(GROUP, "end", TEXT)
            equal(sorted(subscriber.payloads(2)), ["end", "once"])
            subscriber.no_more()

    with check(f"{name}: without roles joining, leaving and publishing are forbidden"):
        with Open(protocol, roles=[]) as peer:
            with refused("Forbidden"):
                peer.client.join_group(GROUP)
            with refused("Forbidden"):
                peer.client.leave_group(GROUP)
            with refused("Forbidden"):
                peer.client.send_to_group(GROUP, "x", TEXT)

    with check(f"{name}: an event is answered"):
        with Open(protocol, roles=[]) as peer:
            for data_type, data in PAYLOADS[:3]:
                peer.client.send_event("echo", data, data_type)
                message = peer.server.get(timeout=STEP_S)
                equal((message.data_type, message.data), (data_type, data))

    with check(f"{name}: an event without a handler fails, and the connection stays"):
        with Open(protocol, service=WITHOUT_HANDLER) as peer:
            with refused("InternalServerError"):
                peer.client.send_event("nobody", "x", TEXT)
            peer.client.join_group(GROUP)
            equal(peer.disconnected.qsize(), 0)


def reconnects(subscriber, publisher):
    subscriber.disconnected.get(timeout=STEP_S)
    second = subscriber.connected.get(timeout=STEP_S)
    assert second.connection_id != subscriber.first.connection_id
    # The client says `connected` before its groups are joined again.
    for n in range(100):
        publisher.client.send_to_group(GROUP, n, JSON)
        try:
            subscriber.group.get(timeout=0.1)
            return
        except queue.Empty:
            pass
    raise AssertionError("the group was not joined again")


all_checks("json", WebPubSubProtocolType.JSON, reliable=False)

with check("json: a cut makes a new connection, which joins its groups again"):
    with pair(WebPubSubProtocolType.JSON, retries=20) as (subscriber, publisher):
        control("cut")
        publisher.disconnected.get(timeout=STEP_S)
        publisher.connected.get(timeout=STEP_S)
        reconnects(subscriber, publisher)

RELIABLE = WebPubSubProtocolType.JSON_RELIABLE
all_checks("reliable json", RELIABLE, reliable=True)

with check("reliable json: a cut loses no message"):
    with pair(RELIABLE, retries=20) as (subscriber, publisher):
        link = subscriber.client._ws
        control(f"cut {subscriber.first.connection_id}")
        n = after = 0
        # Some are published while the link is down, and the service has to keep them. At most 900,
        # because the client acknowledges only once a second.
        while after < 50:
            assert n < 900, "the cut did not come"
            publisher.client.send_to_group(GROUP, n, JSON, ack=False)
            after += subscriber.client._ws is not link
            n += 1
            time.sleep(0.004)
        equal(subscriber.payloads(n), list(range(n)))
        subscriber.no_more()
        for peer in subscriber, publisher:
            equal((peer.connected.qsize(), peer.disconnected.qsize()), (0, 0))

with check("reliable json: a session that is gone makes a new connection, which joins its groups again"):
    with Open(RELIABLE, retries=20) as peer:
        peer.client.join_group(GROUP)
        control("no-recovery 1", "cut")
        reconnects(peer, peer)

done()
