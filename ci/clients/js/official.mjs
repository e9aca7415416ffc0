// @azure/web-pubsub-client against the emulator.
import assert from "node:assert/strict";

import {
  WebPubSubClient,
  WebPubSubJsonProtocol,
  WebPubSubJsonReliableProtocol,
} from "@azure/web-pubsub-client";
import { Queue, accessUrl, check, control, done, limited, sleep, withoutHandler } from "./common.mjs";

// A `google.protobuf.Any` with type URL "t/x" and two bytes.
const ANY = Uint8Array.of(0x0a, 3, 0x74, 0x2f, 0x78, 0x12, 2, 1, 2).buffer;
const PAYLOADS = [
  ["text", "Grüße, <b>&</b> 'quotes' \"and\" 👋\n"],
  ["json", { list: [1, 2.5, -3e10, true, null], nested: { text: "日本 👋" } }],
  ["binary", Uint8Array.of(0, 1, 127, 128, 255).buffer],
  ["protobuf", ANY],
];
const GROUP = "room";

/** A client that has connected, and all that it hears. */
async function open(protocol, access = {}, retries = 0) {
  const client = new WebPubSubClient(accessUrl(access), {
    protocol: protocol(),
    // By default a refusal too is repeated, three times.
    messageRetryOptions: { maxRetries: retries, retryDelayInMs: 200 },
    reconnectRetryOptions: { retryDelayInMs: 200 },
  });
  const heard = { client, group: new Queue(), server: new Queue(), connected: new Queue(), disconnected: new Queue() };
  client.on("group-message", (e) => heard.group.push(e.message));
  client.on("server-message", (e) => heard.server.push(e.message));
  client.on("connected", (e) => heard.connected.push(e));
  client.on("disconnected", (e) => heard.disconnected.push(e));
  await limited(client.start(), "connection");
  heard.first = await heard.connected.next("`connected`");
  return heard;
}

/** Runs `body` with a subscriber of the group and a publisher that is no member. */
async function withPair(protocol, body, retries = 0) {
  const subscriber = await open(protocol, { user: "subscriber" }, retries);
  const publisher = await open(protocol, { user: "publisher" }, retries);
  await subscriber.client.joinGroup(GROUP);
  await body(subscriber, publisher);
  subscriber.client.stop();
  publisher.client.stop();
}

async function refused(promise, name) {
  const error = await promise.then(() => assert.fail(`not refused with ${name}`), (error) => error);
  assert.equal(error.errorDetail?.name, name, `${error}`);
  assert.ok(error.errorDetail.message, "the refusal says nothing");
}

async function allChecks(name, protocol, reliable) {
  const named = (what, body) => check(`${name}: ${what}`, body);

  await named("connects, with its user id", async () => {
    const { client, first } = await open(protocol, { user: "us" });
    assert.ok(first.connectionId);
    assert.equal(first.userId, "us");
    client.stop();
  });

  for (const [dataType, data] of PAYLOADS) {
    await named(`${dataType} arrives as it was sent`, () =>
      withPair(protocol, async (subscriber, publisher) => {
        const result = await publisher.client.sendToGroup(GROUP, data, dataType);
        assert.equal(result.isDuplicated, false);
        const message = await subscriber.group.next();
        assert.deepEqual(message.data, data);
        assert.equal(message.dataType, dataType);
        assert.equal(message.group, GROUP);
        assert.equal(message.fromUserId, "publisher");
        assert.equal(message.sequenceId, reliable ? 1 : undefined);
      }),
    );
  }

  await named("noEcho keeps a message from its sender only", () =>
    withPair(protocol, async (subscriber, publisher) => {
      await publisher.client.joinGroup(GROUP);
      await publisher.client.sendToGroup(GROUP, "silent", "text", { noEcho: true });
      await publisher.client.sendToGroup(GROUP, "loud", "text");
      assert.equal((await publisher.group.next()).data, "loud");
      assert.equal((await subscriber.group.next()).data, "silent");
      assert.equal((await subscriber.group.next()).data, "loud");
    }),
  );

  await named("nothing arrives after leaving", () =>
    withPair(protocol, async (subscriber, publisher) => {
      await subscriber.client.joinGroup("other");
      await subscriber.client.leaveGroup(GROUP);
      await publisher.client.sendToGroup(GROUP, "unheard", "text");
      await publisher.client.sendToGroup("other", "heard", "text");
      assert.equal((await subscriber.group.next()).data, "heard");
    }),
  );

  await named("2000 messages arrive in order", () =>
    withPair(protocol, async (subscriber, publisher) => {
      const batch = 200;
      for (let sent = 0; sent < 2000; sent += batch) {
        const numbers = Array.from({ length: batch }, (_, i) => sent + i);
        await Promise.all(numbers.map((n) => publisher.client.sendToGroup(GROUP, n, "json")));
        for (const n of numbers) assert.equal((await subscriber.group.next()).data, n);
        // The client acknowledges once a second, and the service holds 1000 messages.
        if (reliable && sent % 800 === 600) await sleep(1100);
      }
    }),
  );

  await named("a repeated ack id is a duplicate and runs once", () =>
    withPair(protocol, async (subscriber, publisher) => {
      const once = await publisher.client.sendToGroup(GROUP, "once", "text", { ackId: 77 });
      const again = await publisher.client.sendToGroup(GROUP, "again", "text", { ackId: 77 });
      assert.deepEqual([once.isDuplicated, again.isDuplicated], [false, true]);
      await publisher.client.sendToGroup(GROUP, "end", "text");
      assert.equal((await subscriber.group.next()).data, "once");
      assert.equal((await subscriber.group.next()).data, "end");
    }),
  );

  await named("without roles joining, leaving and publishing are forbidden", async () => {
    const { client } = await open(protocol, { roles: [] });
    await refused(client.joinGroup(GROUP), "Forbidden");
    await refused(client.leaveGroup(GROUP), "Forbidden");
    await refused(client.sendToGroup(GROUP, "x", "text"), "Forbidden");
    client.stop();
  });

  await named("an event is answered", async () => {
    const { client, server } = await open(protocol, { roles: [] });
    for (const [dataType, data] of PAYLOADS.slice(0, 3)) {
      await client.sendEvent("echo", data, dataType);
      const message = await server.next();
      assert.deepEqual([message.dataType, message.data], [dataType, data]);
    }
    client.stop();
  });

  await named("an event without a handler fails, and the connection stays", async () => {
    const { client, disconnected } = await open(protocol, { service: withoutHandler });
    await refused(client.sendEvent("nobody", "x", "text"), "InternalServerError");
    await client.joinGroup(GROUP);
    assert.equal(disconnected.length, 0);
    client.stop();
  });
}

async function reconnects(subscriber, publisher) {
  await subscriber.disconnected.next("`disconnected`");
  // Comes after the groups have been joined again.
  const second = await subscriber.connected.next("second `connected`");
  assert.notEqual(second.connectionId, subscriber.first.connectionId);
  await publisher.client.sendToGroup(GROUP, "after", "text");
  assert.equal((await subscriber.group.next()).data, "after");
}

await allChecks("json", WebPubSubJsonProtocol, false);

await check("json: a cut makes a new connection, which joins its groups again", async () => {
  await withPair(
    WebPubSubJsonProtocol,
    async (subscriber, publisher) => {
      control("cut");
      await publisher.disconnected.next("`disconnected`");
      await publisher.connected.next("second `connected`");
      await reconnects(subscriber, publisher);
    },
    20,
  );
});

await allChecks("reliable json", WebPubSubJsonReliableProtocol, true);

/** Publishes numbers until `enough`; each arrives once, over the first connection. */
async function publishUntil(subscriber, publisher, enough) {
  let n = 0;
  for (let last = false; !last; n++) {
    assert.ok(n < 1000, "the fault did not come");
    // The same id in each repetition: the service then runs no message twice.
    const result = await publisher.client.sendToGroup(GROUP, n, "json", { ackId: 1000 + n });
    last = enough(n + 1, result);
    await sleep(5);
  }
  for (let expected = 0; expected < n; expected++) {
    assert.equal((await subscriber.group.next(`message ${expected}`)).data, expected);
  }
  for (const { connected, disconnected, group } of [subscriber, publisher]) {
    assert.deepEqual([connected.length, disconnected.length, group.length], [0, 0, 0]);
  }
}

await check("reliable json: a cut loses no message and runs none twice", () =>
  withPair(
    WebPubSubJsonReliableProtocol,
    async (subscriber, publisher) => {
      // The first attempt to recover fails, and the next comes a second later: meanwhile the
      // service has to keep what is published.
      control("http 503 1", `cut ${subscriber.first.connectionId}`);
      await publishUntil(subscriber, publisher, (n) => n - subscriber.group.length >= 10);
    },
    20,
  ),
);

await check("reliable json: an ack that is lost with its link is made up for by a repetition", () =>
  withPair(
    WebPubSubJsonReliableProtocol,
    async (subscriber, publisher) => {
      control("cut-before-ack");
      await publishUntil(subscriber, publisher, (_, result) => result.isDuplicated);
    },
    20,
  ),
);

await check("reliable json: a session that is gone makes a new connection, which joins its groups again", async () => {
  const client = await open(WebPubSubJsonReliableProtocol, {}, 20);
  await client.client.joinGroup(GROUP);
  control("no-recovery 1", "cut");
  await reconnects(client, client);
  client.client.stop();
});

done();
