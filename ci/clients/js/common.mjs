// What the programs of this folder have in common: the environment, tokens, checks.
import { createHmac } from "node:crypto";
import { appendFileSync } from "node:fs";

export const ALL_ROLES = ["webpubsub.joinLeaveGroup", "webpubsub.sendToGroup"];

const WATCHDOG_MS = 120_000;
const STEP_MS = 10_000;

function environment(name) {
  return process.env[name] ?? die(`${name} is not set; ci/clients/run.sh sets it`);
}

function die(why) {
  console.error(`FAILED: ${why}`);
  process.exit(1);
}

let running = "the start";
setTimeout(() => die(`still at "${running}" after ${WATCHDOG_MS / 1000} s`), WATCHDOG_MS);
process.on("uncaughtException", (error) => die(`${running}: ${error.stack}`));

/** Runs one check. The first that fails ends the program. */
export async function check(name, body) {
  running = name;
  try {
    await body();
  } catch (error) {
    die(`${name}: ${error.message}`);
  }
  console.log(`ok - ${name}`);
}

/** Ends the program; clients whose timers still run would keep it alive. */
export function done() {
  process.exit(0);
}

/** A client access URL, signed as a server SDK does it. */
export function accessUrl({ user, roles = ALL_ROLES, groups, query = "", key, service = main } = {}) {
  const path = `${service.endpoint}/client/hubs/clients`;
  const claims = { aud: path, exp: Math.floor(Date.now() / 1000) + 3600, role: roles };
  if (user !== undefined) claims.sub = user;
  if (groups !== undefined) claims["webpubsub.group"] = groups;
  const encode = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const signed = `${encode({ alg: "HS256", typ: "JWT" })}.${encode(claims)}`;
  const signature = createHmac("sha256", key ?? service.key).update(signed).digest("base64url");
  return `${path.replace(/^http/, "ws")}?access_token=${signed}.${signature}${query}`;
}

function parse(connectionString) {
  const [, endpoint] = /Endpoint=([^;]*?)\/?;/.exec(connectionString);
  const [, key] = /AccessKey=([^;]*)/.exec(connectionString);
  return { endpoint, key };
}

/** The emulator that answers each event with what it holds. */
const main = parse(environment("WPS_CONNECTION_STRING"));
/** The one without a handler for events. */
export const withoutHandler = parse(environment("WPS_CONNECTION_STRING_NO_HANDLER"));

const controlPipe = environment("WPS_CONTROL");
/** Gives the (first) emulator commands, such as `cut`. */
export function control(...lines) {
  appendFileSync(controlPipe, lines.map((line) => `${line}\n`).join(""));
}

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** A queue whose reader waits, but not for ever. */
export class Queue {
  #items = [];
  #waiting = [];

  push(item) {
    const waiter = this.#waiting.shift();
    if (waiter) waiter(item);
    else this.#items.push(item);
  }

  next(what = "message") {
    if (this.#items.length > 0) return Promise.resolve(this.#items.shift());
    return limited(new Promise((resolve) => this.#waiting.push(resolve)), what);
  }

  get length() {
    return this.#items.length;
  }
}

export function limited(promise, what) {
  let timer;
  const limit = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no ${what} within ${STEP_MS / 1000} s`)), STEP_MS);
  });
  return Promise.race([promise, limit]).finally(() => clearTimeout(timer));
}
