"""The package `websockets` (its threads, not asyncio) against the emulator: what programs do that
use no SDK.

../js/plain.mjs and ../java/Plain.java make the same checks under the same names.
"""

import base64
import json
from contextlib import contextmanager

from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from common import ALL_ROLES, STEP_S, WITHOUT_HANDLER, access_url, check, control, done, equal

SUBPROTOCOL = "json.webpubsub.azure.v1"
GROUP = "room"
TEXT = "Grüße, <b>&</b> 'quotes' \"and\" 👋\n"
JSON_VALUE = {"list": [1, 2.5, -3e10, True, None], "nested": {"text": "日本 👋"}}
BYTES = bytes([0, 1, 127, 128, 255])
PAYLOADS = [("text", TEXT), ("json", JSON_VALUE), ("binary", base64.b64encode(BYTES).decode())]


class Peer:
    def __init__(self, socket):
        self.socket = socket

    def frame(self):
        """The next frame: text, bytes, or the code of the Close as a number."""
        try:
            return self.socket.recv(timeout=STEP_S)
        except ConnectionClosed as end:
            return end.rcvd.code if end.rcvd else 1006

    def json(self):
        frame = self.frame()
        if not isinstance(frame, str):
            raise AssertionError(f"no text frame: {frame!r}")
        return json.loads(frame)

    def send(self, frame):
        self.socket.send(json.dumps(frame) if isinstance(frame, dict) else frame)

    def ask(self, request):
        """Sends a request and returns its ack, which must be the next frame."""
        self.send(request)
        ack = self.json()
        equal((ack["type"], ack["ackId"]), ("ack", request["ackId"]))
        return ack

    def succeed(self, request):
        ack = self.ask(request)
        equal((ack["success"], ack.get("error")), (True, None))

    def fail(self, request, name):
        ack = self.ask(request)
        equal((ack["success"], ack["error"]["name"]), (False, name))
        assert ack["error"]["message"], "the refusal says nothing"


@contextmanager
def simple(**access):
    with connect(access_url(**access), open_timeout=STEP_S, proxy=None) as socket:
        equal(socket.subprotocol, None)
        yield Peer(socket)


@contextmanager
def pubsub(**access):
    url = access_url(**access)
    with connect(url, subprotocols=[SUBPROTOCOL], open_timeout=STEP_S, proxy=None) as socket:
        equal(socket.subprotocol, SUBPROTOCOL)
        peer = Peer(socket)
        peer.connected = peer.json()
        equal((peer.connected["type"], peer.connected["event"]), ("system", "connected"))
        yield peer


@contextmanager
def pair():
    """A member of the group, and a publisher that is none."""
    with pubsub(user="subscriber") as subscriber, pubsub(user="publisher") as publisher:
        subscriber.succeed(join(1))
        yield subscriber, publisher


def join(ack_id, group=GROUP):
    return {"type": "joinGroup", "group": group, "ackId": ack_id}


def leave(ack_id, group=GROUP):
    return {"type": "leaveGroup", "group": group, "ackId": ack_id}


def publish(ack_id, data_type, data, **more):
    request = {"type": "sendToGroup", "group": GROUP, "dataType": data_type, "data": data}
    if ack_id is not None:
        request["ackId"] = ack_id
    return request | more


def group_mode(more=""):
    return f"&webpubsub_mode=sendToGroup&group={GROUP}{more}"


with check("simple client: a text event is answered"):
    with simple(roles=[]) as peer:
        peer.send(TEXT)
        equal(peer.frame(), TEXT)

with check("simple client: a binary event is answered"):
    with simple(roles=[]) as peer:
        peer.send(BYTES)
        equal(peer.frame(), BYTES)

with check("simple client: an event without a handler closes with 1011"):
    with simple(service=WITHOUT_HANDLER) as peer:
        peer.send("x")
        equal(peer.frame(), 1011)

with check("simple client: sendToGroup mode publishes to the group of its URL"):
    with (
        simple(groups=[GROUP]) as receiver,
        simple(groups=[GROUP], query=group_mode()) as sender,
    ):
        sender.send(TEXT)
        sender.send(BYTES)
        for peer in receiver, sender:
            equal(peer.frame(), TEXT)
            equal(peer.frame(), BYTES)

with check("simple client: noEcho keeps a message from its sender only"):
    with (
        simple(groups=[GROUP]) as receiver,
        simple(groups=[GROUP], query=group_mode("&noEcho=true")) as silent,
        simple(query=group_mode()) as loud,
    ):
        silent.send("silent")
        equal(receiver.frame(), "silent")
        loud.send("loud")
        for peer in receiver, silent:
            equal(peer.frame(), "loud")

with check("simple client: a message that its roles forbid closes with 1008"):
    with simple(roles=["webpubsub.sendToGroup.other"], query=group_mode()) as peer:
        peer.send("x")
        equal(peer.frame(), 1008)

with check("simple client: a token of another key is refused with 401"):
    try:
        with simple(key="another"):
            pass
    except InvalidStatus as refusal:
        equal(refusal.response.status_code, 401)
    else:
        raise AssertionError("not refused")

with check("json: connects, with its user id"):
    with pubsub(user="us") as peer:
        assert peer.connected["connectionId"]
        equal(peer.connected["userId"], "us")

for data_type, data in PAYLOADS:
    with check(f"json: {data_type} arrives as it was sent"):
        with pair() as (subscriber, publisher):
            publisher.succeed(publish(1, data_type, data))
            message = subscriber.json()
            equal((message["type"], message["from"]), ("message", "group"))
            equal((message["group"], message["fromUserId"]), (GROUP, "publisher"))
            equal((message["dataType"], message["data"]), (data_type, data))

with check("json: noEcho keeps a message from its sender only"):
    with pair() as (subscriber, publisher):
        publisher.succeed(join(1))
        publisher.succeed(publish(2, "text", "silent", noEcho=True))
        publisher.send(publish(None, "text", "loud"))
        equal(publisher.json()["data"], "loud")
        equal(subscriber.json()["data"], "silent")
        equal(subscriber.json()["data"], "loud")

with check("json: nothing arrives after leaving"):
    with pair() as (subscriber, publisher):
        subscriber.succeed(join(2, "other"))
        subscriber.succeed(leave(3))
        publisher.succeed(publish(1, "text", "unheard"))
        publisher.succeed(publish(2, "text", "heard", group="other"))
        equal(subscriber.json()["data"], "heard")

with check("json: 2000 messages arrive in order"):
    with pair() as (subscriber, publisher):
        # The service queues 1000 frames for a connection.
        for start in range(0, 2000, 200):
            batch = range(start, start + 200)
            for n in batch:
                publisher.send(publish(n + 1, "json", n))
            for n in batch:
                ack = publisher.json()
                equal((ack["ackId"], ack["success"]), (n + 1, True))
                equal(subscriber.json()["data"], n)

with check("json: a repeated ack id is a duplicate and runs once"):
    with pair() as (subscriber, publisher):
        publisher.succeed(publish(77, "text", "once"))
        publisher.fail(publish(77, "text", "again"), "Duplicate")
        publisher.succeed(publish(78, "text", "end"))
        equal(subscriber.json()["data"], "once")
        equal(subscriber.json()["data"], "end")

with check("json: without roles joining, leaving and publishing are forbidden"):
    with pubsub(roles=[]) as peer:
        peer.fail(join(1), "Forbidden")
        peer.fail(leave(2), "Forbidden")
        peer.fail(publish(3, "text", "x"), "Forbidden")

with check("json: a role for one group holds for that group"):
    with pubsub(roles=[f"{role}.{GROUP}" for role in ALL_ROLES]) as peer:
        peer.succeed(join(1))
        peer.fail(join(2, "other"), "Forbidden")
        peer.fail(publish(3, "text", "x", group="other"), "Forbidden")

with check("json: an event is answered before its ack"):
    with pubsub(roles=[]) as peer:
        for ack_id, (data_type, data) in enumerate(PAYLOADS, 1):
            peer.send({"type": "event", "event": "echo", "ackId": ack_id, "dataType": data_type, "data": data})
            message = peer.json()
            equal((message["type"], message["from"]), ("message", "server"))
            equal((message["dataType"], message["data"]), (data_type, data))
            ack = peer.json()
            equal((ack["type"], ack["ackId"], ack["success"]), ("ack", ack_id, True))

with check("json: an event without a handler fails, and the connection stays"):
    with pubsub(service=WITHOUT_HANDLER) as peer:
        event = {"type": "event", "event": "nobody", "ackId": 1, "dataType": "text", "data": "x"}
        peer.fail(event, "InternalServerError")
        peer.succeed(join(2))

with check("json: a ping is answered"):
    with pubsub() as peer:
        peer.send({"type": "ping"})
        equal(peer.json()["type"], "pong")

with check("json: a frame that is not JSON closes with 1007"):
    with pubsub() as peer:
        peer.send("{")
        equal(peer.frame(), 1007)

with check("json: a Close of the service arrives with its code"):
    with pubsub() as peer:
        control("close 1012")
        equal(peer.frame(), 1012)

done()
