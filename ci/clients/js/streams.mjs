// Streams and invocations of @azure/web-pubsub-client: streams to and from this crate's client (the
// program ../rust/streams.rs), invocations to the event handler of the emulator.
//
// The package's own defects are worked around. A comment names each by its number in docs/defects.md.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { createInterface } from "node:readline";

import {
  WebPubSubClient,
  WebPubSubJsonProtocol,
  WebPubSubJsonReliableProtocol,
} from "@azure/web-pubsub-client";
import { Queue, accessUrl, check, control, done, limited, sleep, withoutHandler } from "./common.mjs";

const GROUP = "room";
// S6, S16: no part is `null`; it would use up a number without being sent, or get lost on arrival.
const PARTS = [
  { text: "Grüße, <b>&</b> 'quotes' \"and\" 👋\n" },
  { text: "" },
  { json: { list: [1, 2.5, true, null], nested: { text: "日本 👋" } } },
  { json: false },
  { binary: [0, 1, 127, 128, 255] },
];
const MANY = 2000;
// The service queues 1000 frames for a connection. S7, S13: neither the writer nor the reader of
// the package holds the other side back, so the checks wait for each batch.
const BATCH = 200;

const program = process.env.WPS_STREAMS;
assert.ok(program, "WPS_STREAMS is not set; ci/clients/run.sh sets it");

/** A running ../rust/streams.rs. */
class Ours {
  lines = new Queue();

  constructor(user, ...command) {
    const env = { ...process.env, WEBPUBSUB_URL: accessUrl({ user }) };
    this.process = spawn(program, command, { env, stdio: ["pipe", "pipe", "inherit"] });
    createInterface({ input: this.process.stdout }).on("line", (line) => this.lines.push(JSON.parse(line)));
    this.exit = new Promise((resolve) => this.process.on("close", resolve));
  }

  static async ready(...args) {
    const ours = new Ours(...args);
    assert.deepEqual(await ours.lines.next("stream program"), { ready: true });
    return ours;
  }

  say(line) {
    this.process.stdin.write(`${JSON.stringify(line)}\n`);
  }

  /** Closes its input, and returns its last line. */
  async end() {
    this.process.stdin.end();
    const last = await this.lines.next("last line");
    await this.succeeded();
    return last;
  }

  async succeeded() {
    assert.equal(await limited(this.exit, "end of the program"), 0);
    assert.equal(this.lines.length, 0);
  }
}

/** A client of the package that has connected. */
async function open(protocol, access = { user: "theirs" }) {
  const client = new WebPubSubClient(accessUrl(access), {
    protocol: protocol(),
    messageRetryOptions: { maxRetries: 0 },
    reconnectRetryOptions: { retryDelayInMs: 200 },
  });
  const connected = new Queue();
  const disconnected = new Queue();
  client.on("connected", (e) => connected.push(e));
  client.on("disconnected", (e) => disconnected.push(e));
  await limited(client.start(), "connection");
  await connected.next("`connected`");
  return { client, connected, disconnected };
}

/** A stream of the package. S3: it waits for its acceptance without a limit of its own. */
async function openStream(client, streamId) {
  const stream = await limited(client.openGroupStream(GROUP, { streamId }), "open stream");
  // S8, S12: the end reports only that it was written, and a failure is heard by early listeners only.
  stream.failures = [];
  stream.onError((error) => stream.failures.push(error));
  return stream;
}

// S5: a write whose payload does not fit its type would never settle; these do.
function write(stream, part) {
  const [[dataType, data]] = Object.entries(part);
  const content = dataType === "binary" ? Uint8Array.from(data).buffer : data;
  return limited(stream.write(content, dataType), "written fragment");
}

function theirPart({ dataType, data }) {
  return { [dataType]: dataType === "binary" ? [...new Uint8Array(data)] : data };
}

/** Collects the streams of the group, each as its parts, then `{ end: true }` or `{ error, … }`. */
async function reader(client) {
  const lines = new Queue();
  client.onGroupStream(
    async (stream) => {
      const from = { stream: stream.streamId };
      try {
        // S13: to its end; a loop that is left goes on collecting.
        let number = 0;
        for await (const message of stream) {
          // S14: gaps and repeats are not noticed, so the numbers are looked at here.
          number += 1;
          assert.equal(message.stream.streamSequenceId, number);
          lines.push({ ...from, from: message.fromUserId, ...theirPart(message) });
        }
        lines.push({ ...from, end: true });
      } catch (error) {
        lines.push({ ...from, error: error.name, message: error.message, code: error.userErrorCode });
      }
    },
    { groupNames: [GROUP], handleFromStart: true },
  );
  await limited(client.joinGroup(GROUP), "joined group");
  return lines;
}

const numbered = (from, to) => Array.from({ length: to - from }, (_, i) => ({ json: from + i }));

async function expect(lines, stream, from, parts) {
  for (const part of parts) assert.deepEqual(await lines.next("part"), { stream, from, ...part });
}

async function allChecks(name, protocol, reliable) {
  const named = (what, body) => check(`${name}: ${what}`, body);

  await named("a stream of theirs arrives here, with its end", async () => {
    const ours = await Ours.ready("ours", "read", GROUP);
    const { client } = await open(protocol);
    const stream = await openStream(client, "s-1");
    for (const part of PARTS) await write(stream, part);
    // S24: the end overtakes a refused fragment; none is refused here.
    await limited(stream.end(), "written end");
    await expect(ours.lines, "s-1", "theirs", [...PARTS, { end: true }]);
    assert.deepEqual(stream.failures, []);
    assert.deepEqual(await ours.end(), { recoveries: 0 });
    client.stop();
  });

  await named("two streams of theirs do not mix, and an id can be used again", async () => {
    const ours = await Ours.ready("ours", "read", GROUP);
    const { client } = await open(protocol);
    const streams = [await openStream(client, "a"), await openStream(client, "b")];
    for (const part of numbered(0, 50)) for (const stream of streams) await write(stream, part);
    for (const stream of streams) await limited(stream.end(), "written end");
    for (const { streamId } of streams) {
      await expect(ours.lines, streamId, "theirs", [...numbered(0, 50), { end: true }]);
    }
    // S8: an id is free when the end is confirmed, of which nothing is heard. The ack comes behind it.
    await limited(client.joinGroup("other"), "joined group");
    const again = await openStream(client, "a");
    await write(again, { text: "again" });
    await limited(again.end(), "written end");
    await expect(ours.lines, "a", "theirs", [{ text: "again" }, { end: true }]);
    assert.deepEqual(await ours.end(), { recoveries: 0 });
    client.stop();
  });

  await named("a stream that they abort fails here, with their code", async () => {
    const ours = await Ours.ready("ours", "read", GROUP);
    const { client } = await open(protocol);
    const stream = await openStream(client, "s-1");
    await write(stream, { text: "begun" });
    await limited(stream.abort({ message: "gave up", userErrorCode: "E42" }), "written abort");
    await expect(ours.lines, "s-1", "theirs", [{ text: "begun" }, { error: "UserError", code: "E42" }]);
    assert.deepEqual(await ours.end(), { recoveries: 0 });
    client.stop();
  });

  await named(`${MANY} fragments of theirs arrive here in order`, async () => {
    const ours = await Ours.ready("ours", "read", GROUP);
    const { client } = await open(protocol);
    const stream = await openStream(client, "s-1");
    for (let n = 0; n < MANY; n += BATCH) {
      const parts = numbered(n, n + BATCH);
      await Promise.all(parts.map((part) => write(stream, part)));
      await expect(ours.lines, "s-1", "theirs", parts);
    }
    await limited(stream.end(), "written end");
    await expect(ours.lines, "s-1", "theirs", [{ end: true }]);
    assert.deepEqual(await ours.end(), { recoveries: 0 });
    client.stop();
  });

  await named("a stream that their roles forbid is refused", async () => {
    const { client, disconnected } = await open(protocol, { roles: [] });
    await assert.rejects(openStream(client, "s-1"), /Forbidden/);
    assert.equal(disconnected.length, 0);
    client.stop();
  });

  await named("a stream of ours arrives there, with its end", async () => {
    const { client } = await open(protocol);
    const lines = await reader(client);
    const ours = await Ours.ready("ours", "publish", GROUP, "s-1");
    for (const part of PARTS) ours.say(part);
    assert.deepEqual(await ours.end(), { published: true, recoveries: 0 });
    await expect(lines, "s-1", "ours", PARTS);
    // S16: an end without a payload would be dropped; the emulator's has an empty text.
    assert.deepEqual(await lines.next("end"), { stream: "s-1", end: true });
    client.stop();
  });

  await named("a stream that we abort fails there, with our code", async () => {
    const { client } = await open(protocol);
    const lines = await reader(client);
    const ours = await Ours.ready("ours", "publish", GROUP, "s-1");
    ours.say({ text: "begun" });
    ours.say({ abort: "gave up", code: "E42" });
    await ours.succeeded();
    await expect(lines, "s-1", "ours", [{ text: "begun" }]);
    const failure = { stream: "s-1", error: "UserError", message: "gave up", code: "E42" };
    assert.deepEqual(await lines.next("failure"), failure);
    client.stop();
  });

  await named(`${MANY} fragments of ours arrive there in order`, async () => {
    const { client } = await open(protocol);
    const lines = await reader(client);
    const ours = await Ours.ready("ours", "publish", GROUP, "s-1");
    for (let n = 0; n < MANY; n += BATCH) {
      const parts = numbered(n, n + BATCH);
      for (const part of parts) ours.say(part);
      await expect(lines, "s-1", "ours", parts);
      // J7: it acknowledges once a second, and the service holds 1000 messages.
      if (reliable && n % 800 === 600) await sleep(1100);
    }
    assert.deepEqual(await ours.end(), { published: true, recoveries: 0 });
    assert.deepEqual(await lines.next("end"), { stream: "s-1", end: true });
    client.stop();
  });

  await named("an invocation is answered", async () => {
    const { client } = await open(protocol, { roles: [] });
    // S20, S21: an answer that is `null`, or without a type, would be lost; the handler sends back
    // what it got, which is neither.
    for (const part of PARTS) {
      const [[dataType, data]] = Object.entries(part);
      const content = dataType === "binary" ? Uint8Array.from(data).buffer : data;
      const answer = await invoke(client, content, dataType);
      assert.deepEqual(theirPart(answer), part);
    }
    client.stop();
  });

  await named("200 invocations at once get each its own answer", async () => {
    const { client } = await open(protocol, { roles: [] });
    const numbers = Array.from({ length: 200 }, (_, n) => n);
    const answers = await Promise.all(numbers.map((n) => invoke(client, n, "json")));
    assert.deepEqual(answers.map(({ data }) => data), numbers);
    assert.equal(new Set(answers.map(({ invocationId }) => invocationId)).size, numbers.length);
    client.stop();
  });

  await named("an invocation without a handler fails, and the connection stays", async () => {
    const { client, disconnected } = await open(protocol, { service: withoutHandler });
    await assert.rejects(invoke(client, "x", "text"), (error) => {
      assert.equal(error.errorDetail?.name, "InternalServerError", `${error}`);
      assert.ok(error.errorDetail.message, "the failure says nothing");
      return true;
    });
    await limited(client.joinGroup(GROUP), "joined group");
    assert.equal(disconnected.length, 0);
    client.stop();
  });
}

// S20: without a limit of its own. S23: its generated ids may meet one that was chosen; none is.
function invoke(client, content, dataType) {
  return limited(client.invokeEvent("echo", content, dataType), "answer");
}

await allChecks("json", WebPubSubJsonProtocol, false);
await allChecks("reliable json", WebPubSubJsonReliableProtocol, true);

/** Cuts all links in the middle of `send(part)`s, of which each has to arrive in `lines` once. */
async function acrossACut(lines, from, send) {
  for (let n = 0; n < 100; n++) {
    if (n === 50) control("cut");
    await send({ json: n });
    await sleep(5);
  }
  await expect(lines, "s-1", from, numbered(0, 100));
}

await check("reliable json: a stream of theirs goes on behind a cut", async () => {
  const ours = await Ours.ready("ours", "read", GROUP);
  const { client, connected, disconnected } = await open(WebPubSubJsonReliableProtocol);
  const stream = await openStream(client, "s-1");
  // S4: a stream goes on only when the service says `connected` again, as the emulator does with
  // its flag `--connected-after-recovery`.
  await acrossACut(ours.lines, "theirs", (part) => write(stream, part));
  // S9: not before everything has arrived; an end that is sent twice is reported as a failure.
  await limited(stream.end(), "written end");
  await expect(ours.lines, "s-1", "theirs", [{ end: true }]);
  assert.deepEqual([connected.length, disconnected.length, stream.failures], [0, 0, []]);
  assert.deepEqual(await ours.end(), { recoveries: 1 });
  client.stop();
});

await check("reliable json: a stream of ours goes on behind a cut", async () => {
  // S15: a new connection would leave a hole that nobody hears of; the session is recovered.
  const { client, connected, disconnected } = await open(WebPubSubJsonReliableProtocol);
  const lines = await reader(client);
  const ours = await Ours.ready("ours", "publish", GROUP, "s-1");
  await acrossACut(lines, "ours", (part) => ours.say(part));
  assert.deepEqual(await ours.end(), { published: true, recoveries: 1 });
  assert.deepEqual(await lines.next("end"), { stream: "s-1", end: true });
  assert.deepEqual([connected.length, disconnected.length], [0, 0]);
  client.stop();
});

/** Repeats `attempt` until it returns something. */
async function until(attempt) {
  for (const limit = Date.now() + 10_000; Date.now() < limit; ) {
    const result = await attempt();
    if (result !== undefined) return result;
  }
  assert.fail("not within 10 s");
}

await check("reliable json: after a cut an invocation is answered again", async () => {
  const { client, connected, disconnected } = await open(WebPubSubJsonReliableProtocol, { roles: [] });
  control("cut");
  // S22: calls that the cut meets, and those that meet no connection, fail at once instead of waiting
  // for one. So they are made again: until one has failed, then until one is answered.
  const failed = await until(async () => invoke(client, "before", "text").then(() => undefined, (error) => error));
  assert.match(failed.message, /not connected|disconnected/);
  const answer = await until(async () => invoke(client, "after", "text").catch(() => sleep(20)));
  assert.equal(answer.data, "after");
  assert.deepEqual([connected.length, disconnected.length], [0, 0]);
  client.stop();
});

done();
