// The WebSocket package `ws` against the emulator: what programs do that use no SDK.
// ../python/plain.py and ../java/Plain.java make the same checks under the same names.
import assert from "node:assert/strict";

import WebSocket from "ws";

import { ALL_ROLES, Queue, accessUrl, check, control, done, limited, withoutHandler } from "./common.mjs";

const GROUP = "room";
const TEXT = "Grüße, <b>&</b> 'quotes' \"and\" 👋\n";
const JSON_VALUE = { list: [1, 2.5, -3e10, true, null], nested: { text: "日本 👋" } };
const BYTES = Buffer.from([0, 1, 127, 128, 255]);

class Peer {
  #frames = new Queue();

  constructor(url, subprotocol) {
    this.socket = new WebSocket(url, subprotocol ?? []);
    this.socket.on("message", (data, isBinary) => this.#frames.push(isBinary ? { binary: data } : { text: data.toString() }));
    this.socket.on("close", (code) => this.#frames.push({ closed: code }));
  }

  /** The next frame: `{ text }`, `{ binary }` or `{ closed }`. */
  frame() {
    return this.#frames.next("frame");
  }

  async json() {
    const frame = await this.frame();
    assert.ok(frame.text !== undefined, `no text frame: ${JSON.stringify(frame)}`);
    return JSON.parse(frame.text);
  }

  send(frame) {
    this.socket.send(frame instanceof Buffer || typeof frame === "string" ? frame : JSON.stringify(frame));
  }

  /** Sends a request and returns its ack, which must be the next frame. */
  async ask(request) {
    this.send(request);
    const ack = await this.json();
    assert.deepEqual([ack.type, ack.ackId], ["ack", request.ackId]);
    return ack;
  }

  async succeed(request) {
    const ack = await this.ask(request);
    assert.equal(ack.success, true, JSON.stringify(ack));
  }

  async fail(request, name) {
    const ack = await this.ask(request);
    assert.deepEqual([ack.success, ack.error?.name], [false, name]);
    assert.ok(ack.error.message, "the refusal says nothing");
  }

  close() {
    this.socket.close(1000);
  }
}

/** Resolves with the peer, or rejects with the status of the refusal. */
function dial(url, subprotocol) {
  const peer = new Peer(url, subprotocol);
  const opened = new Promise((resolve, reject) => {
    peer.socket.on("open", () => resolve(peer));
    peer.socket.on("unexpected-response", (_, response) => reject(new Error(`HTTP ${response.statusCode}`)));
    peer.socket.on("error", reject);
  });
  return limited(opened, "connection");
}

async function pubSub(access) {
  const peer = await dial(accessUrl(access), "json.webpubsub.azure.v1");
  assert.equal(peer.socket.protocol, "json.webpubsub.azure.v1");
  const connected = await peer.json();
  assert.deepEqual([connected.type, connected.event], ["system", "connected"]);
  peer.connected = connected;
  return peer;
}

/** A member of the group, and a publisher that is none. */
async function pair() {
  const subscriber = await pubSub({ user: "subscriber" });
  const publisher = await pubSub({ user: "publisher" });
  await subscriber.succeed({ type: "joinGroup", group: GROUP, ackId: 1 });
  return [subscriber, publisher];
}

function publish(ackId, dataType, data, more) {
  return { type: "sendToGroup", group: GROUP, ackId, dataType, data, ...more };
}

const groupMode = (more = "") => `&webpubsub_mode=sendToGroup&group=${GROUP}${more}`;

await check("simple client: a text event is answered", async () => {
  const peer = await dial(accessUrl({ roles: [] }));
  assert.equal(peer.socket.protocol, "");
  peer.send(TEXT);
  assert.deepEqual(await peer.frame(), { text: TEXT });
  peer.close();
});

await check("simple client: a binary event is answered", async () => {
  const peer = await dial(accessUrl({ roles: [] }));
  peer.send(BYTES);
  assert.deepEqual(await peer.frame(), { binary: BYTES });
  peer.close();
});

await check("simple client: an event without a handler closes with 1011", async () => {
  const peer = await dial(accessUrl({ service: withoutHandler }));
  peer.send("x");
  assert.deepEqual(await peer.frame(), { closed: 1011 });
});

await check("simple client: sendToGroup mode publishes to the group of its URL", async () => {
  const receiver = await dial(accessUrl({ groups: [GROUP] }));
  const sender = await dial(accessUrl({ groups: [GROUP], query: groupMode() }));
  sender.send(TEXT);
  sender.send(BYTES);
  for (const peer of [receiver, sender]) {
    assert.deepEqual(await peer.frame(), { text: TEXT });
    assert.deepEqual(await peer.frame(), { binary: BYTES });
    peer.close();
  }
});

await check("simple client: noEcho keeps a message from its sender only", async () => {
  const receiver = await dial(accessUrl({ groups: [GROUP] }));
  const silent = await dial(accessUrl({ groups: [GROUP], query: groupMode("&noEcho=true") }));
  const loud = await dial(accessUrl({ query: groupMode() }));
  silent.send("silent");
  assert.deepEqual(await receiver.frame(), { text: "silent" });
  loud.send("loud");
  for (const peer of [receiver, silent]) assert.deepEqual(await peer.frame(), { text: "loud" });
  for (const peer of [receiver, silent, loud]) peer.close();
});

await check("simple client: a message that its roles forbid closes with 1008", async () => {
  const peer = await dial(accessUrl({ roles: ["webpubsub.sendToGroup.other"], query: groupMode() }));
  peer.send("x");
  assert.deepEqual(await peer.frame(), { closed: 1008 });
});

await check("simple client: a token of another key is refused with 401", async () => {
  await assert.rejects(dial(accessUrl({ key: "another" })), { message: "HTTP 401" });
});

await check("json: connects, with its user id", async () => {
  const peer = await pubSub({ user: "us" });
  assert.ok(peer.connected.connectionId);
  assert.equal(peer.connected.userId, "us");
  peer.close();
});

const payloads = [
  ["text", TEXT],
  ["json", JSON_VALUE],
  ["binary", BYTES.toString("base64")],
];
for (const [dataType, data] of payloads) {
  await check(`json: ${dataType} arrives as it was sent`, async () => {
    const [subscriber, publisher] = await pair();
    await publisher.succeed(publish(1, dataType, data));
    const message = await subscriber.json();
    const { type, from, group, fromUserId } = message;
    assert.deepEqual([type, from, group, fromUserId], ["message", "group", GROUP, "publisher"]);
    assert.deepEqual([message.dataType, message.data], [dataType, data]);
    subscriber.close();
    publisher.close();
  });
}

await check("json: noEcho keeps a message from its sender only", async () => {
  const [subscriber, publisher] = await pair();
  await publisher.succeed({ type: "joinGroup", group: GROUP, ackId: 1 });
  await publisher.succeed(publish(2, "text", "silent", { noEcho: true }));
  publisher.send(publish(undefined, "text", "loud"));
  assert.equal((await publisher.json()).data, "loud");
  assert.equal((await subscriber.json()).data, "silent");
  assert.equal((await subscriber.json()).data, "loud");
  subscriber.close();
  publisher.close();
});

await check("json: nothing arrives after leaving", async () => {
  const [subscriber, publisher] = await pair();
  await subscriber.succeed({ type: "joinGroup", group: "other", ackId: 2 });
  await subscriber.succeed({ type: "leaveGroup", group: GROUP, ackId: 3 });
  await publisher.succeed(publish(1, "text", "unheard"));
  await publisher.succeed(publish(2, "text", "heard", { group: "other" }));
  assert.equal((await subscriber.json()).data, "heard");
  subscriber.close();
  publisher.close();
});

await check("json: 2000 messages arrive in order", async () => {
  const [subscriber, publisher] = await pair();
  for (let n = 0; n < 2000; ) {
    // The service queues 1000 frames for a connection.
    const batch = Array.from({ length: 200 }, () => n++);
    for (const i of batch) publisher.send(publish(i + 1, "json", i));
    for (const i of batch) {
      const ack = await publisher.json();
      assert.deepEqual([ack.ackId, ack.success], [i + 1, true]);
      assert.equal((await subscriber.json()).data, i);
    }
  }
  subscriber.close();
  publisher.close();
});

await check("json: a repeated ack id is a duplicate and runs once", async () => {
  const [subscriber, publisher] = await pair();
  await publisher.succeed(publish(77, "text", "once"));
  await publisher.fail(publish(77, "text", "again"), "Duplicate");
  await publisher.succeed(publish(78, "text", "end"));
  assert.equal((await subscriber.json()).data, "once");
  assert.equal((await subscriber.json()).data, "end");
  subscriber.close();
  publisher.close();
});

await check("json: without roles joining, leaving and publishing are forbidden", async () => {
  const peer = await pubSub({ roles: [] });
  await peer.fail({ type: "joinGroup", group: GROUP, ackId: 1 }, "Forbidden");
  await peer.fail({ type: "leaveGroup", group: GROUP, ackId: 2 }, "Forbidden");
  await peer.fail(publish(3, "text", "x"), "Forbidden");
  peer.close();
});

await check("json: a role for one group holds for that group", async () => {
  const peer = await pubSub({ roles: ALL_ROLES.map((role) => `${role}.${GROUP}`) });
  await peer.succeed({ type: "joinGroup", group: GROUP, ackId: 1 });
  await peer.fail({ type: "joinGroup", group: "other", ackId: 2 }, "Forbidden");
  await peer.fail(publish(3, "text", "x", { group: "other" }), "Forbidden");
  peer.close();
});

await check("json: an event is answered before its ack", async () => {
  const peer = await pubSub({ roles: [] });
  let ackId = 0;
  for (const [dataType, data] of payloads) {
    peer.send({ type: "event", event: "echo", ackId: ++ackId, dataType, data });
    const message = await peer.json();
    assert.deepEqual([message.type, message.from], ["message", "server"]);
    assert.deepEqual([message.dataType, message.data], [dataType, data]);
    const ack = await peer.json();
    assert.deepEqual([ack.type, ack.ackId, ack.success], ["ack", ackId, true]);
  }
  peer.close();
});

await check("json: an event without a handler fails, and the connection stays", async () => {
  const peer = await pubSub({ service: withoutHandler });
  await peer.fail({ type: "event", event: "nobody", ackId: 1, dataType: "text", data: "x" }, "InternalServerError");
  await peer.succeed({ type: "joinGroup", group: GROUP, ackId: 2 });
  peer.close();
});

await check("json: a ping is answered", async () => {
  const peer = await pubSub();
  peer.send({ type: "ping" });
  assert.equal((await peer.json()).type, "pong");
  peer.close();
});

await check("json: a frame that is not JSON closes with 1007", async () => {
  const peer = await pubSub();
  peer.send("{");
  assert.deepEqual(await peer.frame(), { closed: 1007 });
});

await check("json: a Close of the service arrives with its code", async () => {
  const peer = await pubSub();
  control("close 1012");
  assert.deepEqual(await peer.frame(), { closed: 1012 });
});

done();
