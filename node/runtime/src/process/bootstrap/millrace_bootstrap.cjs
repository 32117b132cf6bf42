// Runs a JavaScript function: asks the node for batches or single events, calls the handler,
// answers. The node's Runtime API is on descriptor 3. A batch is one frame each way, laid out as
// the crate `frame` documents it; a single event is JSON, as every Lambda client knows it.
"use strict";

const fs = require("node:fs");
const net = require("node:net");
const path = require("node:path");
const { isAscii = () => false } = require("node:buffer");

const BATCH = "application/vnd.millrace.batch.v1";
const API = "/2018-06-01/runtime/";
const NEXT = `GET ${API}invocation/next HTTP/1.1\r\nHost: millrace\r\nAccept: ${BATCH}\r\n\r\n`;
const ABSENT = 0xffffffff;
const KEEP = 0xfffffffe;
const [OK, FAILED] = [1, 2];
const MESSAGE_CHARS_MAX = 1000;
const [REQUEST_HEAD, RESPONSE_HEAD, OUTPUT, FAILURE] = [48, 48, 48, 24];

/** A failure with a name of the contract's own. */
class Fault extends Error {
  constructor(name, message) {
    super(message);
    this.name = name;
  }
}

// --- the node -----------------------------------------------------------------------------------

/** The other end of descriptor 3. */
class Node {
  constructor() {
    this.socket = new net.Socket({ fd: 3, readable: true, writable: true });
    this.rest = Buffer.alloc(0);
    this.parts = [];
    this.have = 0;
    this.need = 0;
    this.waiting = null;
    this.socket.on("data", (part) => this.feed(part));
    // The node has gone, or has no more use for this process.
    this.socket.on("close", () => process.exit(0));
    this.socket.on("error", () => process.exit(0));
  }

  feed(part) {
    this.parts.push(part);
    this.have += part.length;
    this.offer();
  }

  offer() {
    while (this.waiting !== null && this.have >= this.need) {
      const data = this.parts.length === 1 ? this.parts[0] : Buffer.concat(this.parts);
      const end = data.indexOf("\r\n\r\n");
      this.parts = [data];
      if (end < 0) {
        this.need = this.have + 1;
        return;
      }
      const headers = {};
      for (const line of data.latin1Slice(0, end).split("\r\n").slice(1)) {
        const colon = line.indexOf(":");
        headers[line.slice(0, colon).toLowerCase()] = line.slice(colon + 1).trim();
      }
      const whole = end + 4 + Number(headers["content-length"] ?? 0);
      if (data.length < whole) {
        this.need = whole;
        return;
      }
      const body = data.subarray(end + 4, whole);
      const rest = data.subarray(whole);
      [this.parts, this.have, this.need] = [rest.length ? [rest] : [], rest.length, 1];
      const waiting = this.waiting;
      this.waiting = null;
      waiting({ headers, body });
    }
  }

  /** One answer: its headers in lower case, and its body. */
  receive() {
    return new Promise((resolve) => {
      this.waiting = resolve;
      this.offer();
    });
  }

  /** Sends an answer; because of what it accepts, the reply is the next event. */
  post(place, body, { content = "application/json", error = "" } = {}) {
    const named = error ? `Lambda-Runtime-Function-Error-Type: ${token(error)}\r\n` : "";
    const head =
      `POST ${API}${place} HTTP/1.1\r\nHost: millrace\r\nAccept: ${BATCH}\r\n` +
      `Content-Type: ${content}\r\n${named}Content-Length: ${body.length}\r\n\r\n`;
    this.socket.write(Buffer.concat([Buffer.from(head, "latin1"), body]));
  }
}

/** A text as a header may have it. */
const token = (text) => String(text).replace(/[^\x21-\x7e]/g, "?").slice(0, 200);

// --- what a handler is told ---------------------------------------------------------------------

const [IN, AT] = [Symbol("batch"), Symbol("entry")];

/** Lambda's context, and beside it where the record lies. */
class Context {
  // Symbols, not private fields: those cost more than the rest of a record without outputs.
  constructor(batch, entry) {
    this[IN] = batch;
    this[AT] = entry;
  }

  get functionName() { return process.env.AWS_LAMBDA_FUNCTION_NAME; }
  get functionVersion() { return process.env.AWS_LAMBDA_FUNCTION_VERSION; }
  get memoryLimitInMB() { return process.env.AWS_LAMBDA_FUNCTION_MEMORY_SIZE; }
  get logGroupName() { return process.env.AWS_LAMBDA_LOG_GROUP_NAME; }
  get logStreamName() { return process.env.AWS_LAMBDA_LOG_STREAM_NAME; }
  get invokedFunctionArn() { return this[IN].arn; }
  get awsRequestId() { return this[IN].requestId; }
  get deadlineMs() { return this[IN].deadlineMs; }
  get clientContext() { return parsed(this[IN].client); }
  get identity() { return parsed(this[IN].identity); }
  getRemainingTimeInMillis() { return Math.max(this[IN].deadlineMs - Date.now(), 0); }

  get cluster() { return this[IN].texts[0]; }
  get function() { return this[IN].texts[1]; }
  get revision() { return this[IN].texts[2]; }
  get trigger() { return this[IN].texts[3]; }
  get trace() { return this[IN].texts[4]; }

  get topic() { return this[AT] && this[IN].partitions[wordAt(this, 16)].topic; }
  get partition() { return this[AT] && this[IN].partitions[wordAt(this, 16)].partition; }
  get offset() { return this[AT] && Number(this[IN].frame.readBigInt64LE(this[AT])); }
  get timestamp() {
    return this[AT] && Number(this[IN].frame.readBigInt64LE(this[AT] + 8));
  }
  get attempt() { return this[AT] && wordAt(this, 20); }
  get key() { return this[AT] && sliceAt(this, 24); }

  /** Names and values, in order; values are buffers or null. */
  get headers() {
    if (!this[AT]) return undefined;
    const [blob, found] = [sliceAt(this, 40) ?? Buffer.alloc(0), []];
    let at = 0;
    for (let index = 0; index < wordAt(this, 48); index += 1) {
      const size = blob.readUInt32LE(at);
      const name = blob.toString("utf8", at + 4, at + 4 + size);
      at += 4 + size;
      const length = blob.readUInt32LE(at);
      at += 4;
      found.push([name, length === ABSENT ? null : blob.subarray(at, at + length)]);
      at += length === ABSENT ? 0 : length;
    }
    return found;
  }

  get idempotencyKey() {
    if (!this[AT]) return undefined;
    return `${this.cluster}/${this.trigger}/${this.topic}/${this.partition}/${this.offset}`;
  }
}

Context.prototype.callbackWaitsForEmptyEventLoop = true;

const wordAt = (context, at) => context[IN].frame.readUInt32LE(context[AT] + at);

function sliceAt(context, at) {
  const [start, length] = [context[IN].arena + wordAt(context, at), wordAt(context, at + 4)];
  return length === ABSENT ? null : context[IN].frame.subarray(start, start + length);
}

/** Says where the batch is in its trace, in both forms; most have none. */
function traced(batch, xray) {
  const parts = /^Root=1-([0-9a-f]{8})-([0-9a-f]{24});Parent=([0-9a-f]{16});Sampled=1/.exec(xray ?? "");
  if (parts) batch.texts[4] = `00-${parts[1]}${parts[2]}-${parts[3]}-01`;
  const trace = batch.texts[4];
  if (xray === undefined && trace) {
    const [, root, parent] = trace.split("-");
    xray = `Root=1-${root.slice(0, 8)}-${root.slice(8)};Parent=${parent};Sampled=1`;
  }
  if (xray !== undefined) process.env._X_AMZN_TRACE_ID = xray;
  else if (isTraced) delete process.env._X_AMZN_TRACE_ID;
  isTraced = xray !== undefined;
  return batch;
}
let isTraced = false;

const parsed = (text) => (text ? JSON.parse(text) : undefined);

function batchOf(headers) {
  return {
    frame: null,
    arena: 0,
    partitions: [],
    texts: [],
    requestId: headers["lambda-runtime-aws-request-id"],
    deadlineMs: Number(headers["lambda-runtime-deadline-ms"]),
    arn: headers["lambda-runtime-invoked-function-arn"],
    client: headers["lambda-runtime-client-context"],
    identity: headers["lambda-runtime-cognito-identity"],
  };
}

// --- batches ------------------------------------------------------------------------------------

/** Words of an output's entry. */
const WORDS = OUTPUT / 4;

/** The results of a batch in the making. */
class Answer {
  constructor(batchId, count) {
    this.batchId = batchId;
    this.ends = Buffer.alloc(count);
    this.outputs = new Uint32Array(WORDS * Math.max(count, 16));
    this.made = 0;
    this.failures = [];
    this.arena = Buffer.allocUnsafe(256 * Math.max(count, 16));
    this.size = 0;
  }

  /** Puts text or bytes into the arena; gives how long they are. They end where `size` is then. */
  keep(data) {
    const isText = typeof data === "string";
    const most = this.size + (isText ? 3 * data.length : data.length);
    if (this.arena.length < most) {
      const larger = Buffer.allocUnsafe(2 * most);
      this.arena.copy(larger, 0, 0, this.size);
      this.arena = larger;
    }
    const length = isText ? this.arena.utf8Write(data, this.size) : data.length;
    if (!isText) this.arena.set(data, this.size);
    this.size += length;
    return length;
  }

  /** The same, as the two words that entries have for it. */
  kept(data) {
    const length = this.keep(data);
    return [this.size - length, length];
  }

  /** Room for one more entry; gives where it begins. */
  entry() {
    const at = WORDS * this.made;
    if (this.outputs.length < at + WORDS) {
      const larger = new Uint32Array(2 * this.outputs.length);
      larger.set(this.outputs);
      this.outputs = larger;
    }
    this.made += 1;
    return at;
  }

  plain(source, value) {
    const data = encoded(value);
    if (data === undefined) return;
    const length = this.keep(data);
    const at = this.entry();
    const { outputs } = this;
    outputs[at] = source;
    outputs[at + 1] = ABSENT;
    outputs[at + 2] = 0;
    outputs[at + 3] = ABSENT;
    outputs[at + 4] = 0;
    outputs[at + 5] = KEEP;
    outputs[at + 6] = this.size - length;
    outputs[at + 7] = length;
    outputs.fill(0, at + 8, at + WORDS);
  }

  /** One of `$outputs`. */
  chosen(source, it) {
    const bad = (what) => new Fault("Millrace.OutputInvalid", `one of \`$outputs\` ${what}`);
    if (it === null || typeof it !== "object" || Array.isArray(it)) throw bad("is no object");
    for (const name of Object.keys(it)) {
      if (!["topic", "key", "value", "headers", "partition"].includes(name)) {
        throw bad(`has an unknown field ${JSON.stringify(name)}`);
      }
    }
    if (it.value === undefined) throw bad("has no `value`");
    let [topic, key, value] = [[0, ABSENT], [0, KEEP], [0, ABSENT]];
    if (it.topic !== undefined && it.topic !== null) {
      if (typeof it.topic !== "string") throw bad("has a `topic` that is no text");
      topic = this.kept(it.topic);
    }
    if (it.key === null) key = [0, ABSENT];
    else if (it.key !== undefined) key = this.kept(chosenBytes(it.key, "`key`"));
    if (it.value !== null) value = this.kept(bytesOf(it.value) ?? encoded(it.value));
    let partition = ABSENT;
    if (it.partition !== undefined && it.partition !== null) {
      partition = it.partition;
      if (!Number.isInteger(partition) || partition < 0 || partition >= 2 ** 31) {
        throw bad("has an odd `partition`");
      }
    }
    const pairs = Array.isArray(it.headers) ? it.headers : Object.entries(it.headers ?? {});
    const blob = [];
    for (const [name, data] of pairs) {
      const bytes = Buffer.from(name);
      blob.push(word(bytes.length), bytes);
      if (data === null) blob.push(word(ABSENT));
      else {
        const found = Buffer.from(chosenBytes(data, "header"));
        blob.push(word(found.length), found);
      }
    }
    const headers = this.kept(Buffer.concat(blob));
    const entry = [source, partition, ...topic, ...key, ...value, ...headers, pairs.length, 0];
    const at = this.entry();
    this.outputs.set(entry, at);
  }

  /** What a handler returned or yielded; a promise where the end of it must be waited for. */
  given(source, value) {
    if (value === undefined || value === null) return undefined;
    if (typeof value === "object") {
      if (typeof value.then === "function") return value.then((it) => this.given(source, it));
      if (value[Symbol.asyncIterator] !== undefined && typeof value.next === "function") {
        return this.drain(source, value);
      }
      if (value[Symbol.iterator] !== undefined && typeof value.next === "function") {
        // Not `for of`, which would close a generator that is left and entered again.
        for (let step = value.next(); !step.done; step = value.next()) {
          const more = this.given(source, step.value);
          if (more !== undefined) return more.then(() => this.given(source, value));
        }
        return undefined;
      }
      if (value.$outputs !== undefined && Object.keys(value).length === 1) {
        if (!Array.isArray(value.$outputs)) {
          throw new Fault("Millrace.OutputInvalid", "`$outputs` is no list");
        }
        for (const it of value.$outputs) this.chosen(source, it);
        return undefined;
      }
    }
    this.plain(source, value);
    return undefined;
  }

  async drain(source, generator) {
    for await (const it of generator) await this.given(source, it);
  }

  failed(source, name, message) {
    this.ends[source] = FAILED;
    const text = String(message).slice(0, MESSAGE_CHARS_MAX);
    this.failures.push([source, ...this.kept(String(name)), ...this.kept(text), 0]);
  }

  finish() {
    const outputsAt = RESPONSE_HEAD + this.ends.length;
    const failuresAt = outputsAt + OUTPUT * this.made;
    const arenaAt = failuresAt + FAILURE * this.failures.length;
    const frame = Buffer.allocUnsafe(arenaAt + this.size);
    frame[0] = 1;
    frame[1] = 2;
    frame.writeUInt16LE(FAILURE, 2);
    frame.writeUInt16LE(RESPONSE_HEAD, 4);
    frame.writeUInt16LE(OUTPUT, 6);
    frame.writeBigUInt64LE(this.batchId, 8);
    const words = [
      this.ends.length, this.made, this.failures.length,
      RESPONSE_HEAD, outputsAt, failuresAt, arenaAt, frame.length,
    ];
    let at = 16;
    for (const it of words) at = frame.writeUInt32LE(it, at);
    this.ends.copy(frame, RESPONSE_HEAD);
    // Numbers lie in memory as in a frame: all machines that run this are little endian.
    frame.set(new Uint8Array(this.outputs.buffer, 0, OUTPUT * this.made), outputsAt);
    at = failuresAt;
    for (const entry of this.failures) for (const it of entry) at = frame.writeUInt32LE(it, at);
    this.arena.copy(frame, arenaAt, 0, this.size);
    return frame;
  }
}

function word(value) {
  const bytes = Buffer.allocUnsafe(4);
  bytes.writeUInt32LE(value);
  return bytes;
}

/** A value as a topic has it. */
function encoded(value) {
  return value instanceof Uint8Array ? value : JSON.stringify(value);
}

/** The bytes that `{"$bytes": "<base64>"}` stands for. */
function bytesOf(value) {
  if (typeof value?.$bytes !== "string" || Object.keys(value).length !== 1) return undefined;
  const bytes = Buffer.from(value.$bytes, "base64");
  if (bytes.toString("base64").replace(/=+$/, "") !== value.$bytes.replace(/=+$/, "")) {
    throw new Fault("Millrace.OutputInvalid", "one of `$outputs` has odd `$bytes`");
  }
  return bytes;
}

/** Text or bytes, in either of their forms. */
function chosenBytes(value, what) {
  if (typeof value === "string" || value instanceof Uint8Array) return value;
  const bytes = bytesOf(value);
  if (bytes !== undefined) return bytes;
  const text = `one of \`$outputs\` has a ${what} that is neither text nor bytes`;
  throw new Fault("Millrace.OutputInvalid", text);
}

function textAt(frame, at) {
  const end = at + 4 + frame.readUInt32LE(at);
  return [frame.toString("utf8", at + 4, end), end];
}

/** Calls the handler record by record; gives the answer's frame, or a promise of it. */
function runBatch(handler, headers, frame) {
  if (frame[0] !== 1 || frame[1] !== 1 || frame.readUInt32LE(40) !== frame.length) {
    throw new RangeError("not a whole batch of version 1");
  }
  const [order, entryLength] = [frame[2], frame.readUInt16LE(6)];
  const [count, parts] = [frame.readUInt32LE(16), frame.readUInt32LE(20)];
  const [entries, arena] = [frame.readUInt32LE(32), frame.readUInt32LE(36)];
  const batch = batchOf(headers);
  [batch.frame, batch.arena] = [frame, arena];
  let at = frame.readUInt32LE(24) + 8;
  for (let index = 0; index < 5; index += 1) [batch.texts[index], at] = textAt(frame, at);
  if (batch.texts[4] || isTraced) traced(batch);
  at = frame.readUInt32LE(28);
  for (let index = 0; index < parts; index += 1) {
    const partition = frame.readInt32LE(at);
    let topic;
    [topic, at] = textAt(frame, at + 4);
    batch.partitions.push({ topic, partition });
  }
  const isJson = headers["millrace-decode"] === "json";
  const answer = new Answer(frame.readBigUInt64LE(8), count);
  let held = null;

  /** What a failed record keeps from running. */
  const token = (entry) => {
    if (order === 2) return frame.readUInt32LE(entry + 16);
    const length = frame.readUInt32LE(entry + 28);
    if (length === ABSENT) return undefined;
    const start = arena + frame.readUInt32LE(entry + 24);
    return frame.latin1Slice(start, start + length);
  };

  const fail = (index, entry, made, size, error) => {
    answer.made = made;
    answer.size = size;
    const fault = described(error);
    if (!(error instanceof Fault)) logError(fault);
    answer.failed(index, fault.errorType, fault.errorMessage);
    const it = order === 0 ? undefined : token(entry);
    if (it !== undefined) (held ??= new Set()).add(it);
  };

  // One call into the engine for all texts, where a character is a byte.
  const texts = isJson && isAscii(frame.subarray(arena)) ? frame.latin1Slice(arena) : null;
  // The entries where they can be read as numbers, which wants them aligned.
  const words = new Uint32Array((count * entryLength) / 4);
  Buffer.from(words.buffer).set(frame.subarray(entries, entries + count * entryLength));
  const callsBack = handler.length >= 3;

  /** Runs records from this one on, until one must be waited for. */
  const from = (first) => {
    for (let index = first; index < count; index += 1) {
      const entry = entries + index * entryLength;
      if (held !== null && held.has(token(entry))) continue;
      const at = (index * entryLength) / 4;
      const [start, length] = [words[at + 8], words[at + 9]];
      let value = null;
      if (length !== ABSENT) {
        if (isJson) {
          try {
            value = JSON.parse(
              texts === null
                ? frame.utf8Slice(arena + start, arena + start + length)
                : texts.slice(start, start + length),
            );
          } catch (error) {
            // A dead letter at once: it holds nothing back.
            answer.failed(index, "Millrace.Decode", `not JSON: ${error.message}`);
            continue;
          }
        } else {
          value = frame.subarray(arena + start, arena + start + length);
        }
      }
      const { made, size } = answer;
      let more;
      try {
        const context = new Context(batch, entry);
        const result = callsBack ? call(handler, value, context) : handler(value, context);
        more = result === undefined || result === null ? undefined : answer.given(index, result);
      } catch (error) {
        fail(index, entry, made, size, error);
        continue;
      }
      if (more === undefined) {
        answer.ends[index] = OK;
        continue;
      }
      return more.then(
        () => {
          answer.ends[index] = OK;
          return from(index + 1);
        },
        (error) => {
          fail(index, entry, made, size, error);
          return from(index + 1);
        },
      );
    }
    return answer.finish();
  };
  return from(0);
}

/** Calls a handler of either kind: one that returns, or one that calls back. */
function call(handler, event, context) {
  if (handler.length < 3) return handler(event, context);
  return new Promise((resolve, reject) => {
    const callback = (error, value) => {
      if (error !== null && error !== undefined) reject(error);
      else resolve(value);
    };
    const more = handler(event, context, callback);
    if (typeof more?.then === "function") more.then(resolve, reject);
  });
}

// --- errors and logs ----------------------------------------------------------------------------

/** An error as Lambda's clients describe it. */
function described(error) {
  if (error instanceof Error) {
    const trace = String(error.stack ?? "").split("\n");
    return { errorType: error.name || "Error", errorMessage: error.message, trace };
  }
  let text;
  try {
    text = typeof error === "string" ? error : String(JSON.stringify(error) ?? error);
  } catch {
    text = "an error that has no text";
  }
  return { errorType: typeof error, errorMessage: text, trace: [] };
}

function logError(fault) {
  const text = `Invoke Error\t${JSON.stringify({ ...fault, stack: fault.trace, trace: undefined })}\n`;
  process.stderr.write(`${new Date().toISOString()}\t${current}\tERROR\t${text}`);
}

let current = "undefined";

/** Gives `console` Lambda's format. */
function setConsole() {
  const { formatWithOptions } = require("node:util");
  const levels = { trace: "TRACE", debug: "DEBUG", log: "INFO", info: "INFO", warn: "WARN", error: "ERROR" };
  for (const [name, level] of Object.entries(levels)) {
    const stream = name === "warn" || name === "error" ? process.stderr : process.stdout;
    console[name] = (...parts) => {
      const text = formatWithOptions({}, ...parts).replace(/\n/g, "\r");
      stream.write(`${new Date().toISOString()}\t${current}\t${level}\t${text}\n`);
    };
  }
}

// --- the start ----------------------------------------------------------------------------------

/** The handler that `folder/module.function` names. */
async function load(root, name) {
  const base = path.basename(name);
  const dot = base.indexOf(".");
  if (dot < 1 || dot === base.length - 1 || name.includes("..")) {
    throw new Fault("Runtime.MalformedHandlerName", `Bad handler '${name}'`);
  }
  const stem = path.join(root, path.dirname(name), base.slice(0, dot));
  const file = [".js", ".mjs", ".cjs"].map((it) => stem + it).find((it) => fs.existsSync(it));
  if (file === undefined) {
    const text = `Cannot find module '${path.relative(root, stem)}'`;
    throw new Fault("Runtime.ImportModuleError", `Error: ${text}`);
  }
  let module;
  try {
    module = isModule(root, file)
      ? await import(require("node:url").pathToFileURL(file))
      : require(file);
  } catch (error) {
    if (error instanceof SyntaxError) {
      throw new Fault("Runtime.UserCodeSyntaxError", `SyntaxError: ${error.message}`);
    }
    if (error?.code === "MODULE_NOT_FOUND" || error?.code === "ERR_MODULE_NOT_FOUND") {
      throw new Fault("Runtime.ImportModuleError", `Error: ${error.message.split("\n")[0]}`);
    }
    throw error;
  }
  let found = module;
  for (const part of base.slice(dot + 1).split(".")) found = found?.[part] ?? found?.default?.[part];
  if (typeof found !== "function") {
    const text = found === undefined ? "is undefined or not exported" : "is not a function";
    throw new Fault("Runtime.HandlerNotFound", `${name} ${text}`);
  }
  return found;
}

/** Whether a file is an ECMAScript module: by its ending, else by the package.json above it. */
function isModule(root, file) {
  if (!file.endsWith(".js")) return file.endsWith(".mjs");
  for (let folder = path.dirname(file); folder.startsWith(root); folder = path.dirname(folder)) {
    try {
      return JSON.parse(fs.readFileSync(path.join(folder, "package.json"), "utf8")).type === "module";
    } catch (error) {
      if (error.code !== "ENOENT") return false;
    }
  }
  return false;
}

const asBody = ({ errorType, errorMessage, trace }) =>
  Buffer.from(JSON.stringify({ errorType, errorMessage, trace }));

/** A single event, as every Lambda client handles it. */
async function runOne(node, handler, headers, body) {
  const place = `invocation/${headers["lambda-runtime-aws-request-id"]}/`;
  let [data, content] = [undefined, "application/json"];
  try {
    const isJson = headers["content-type"] === "application/json";
    const event = isJson ? JSON.parse(body.toString()) : body;
    const value = await call(handler, event, new Context(traced(batchOf(headers), headers["lambda-runtime-trace-id"]), 0));
    if (value instanceof Uint8Array) [data, content] = [Buffer.from(value), "application/unknown"];
    else data = Buffer.from(JSON.stringify(value === undefined ? null : value) ?? "null");
  } catch (error) {
    const fault = described(error);
    logError(fault);
    node.post(`${place}error`, asBody(fault), { error: fault.errorType });
    return;
  }
  node.post(`${place}response`, data, { content });
}

async function main() {
  const node = new Node();
  setConsole();
  let handler;
  try {
    handler = await load(process.env.LAMBDA_TASK_ROOT, process.env._HANDLER);
  } catch (error) {
    const fault = described(error);
    logError(fault);
    node.post("init/error", asBody(fault), { error: fault.errorType });
    await node.receive();
    process.exit(1);
  }
  // What nobody waits for ends the process, as it does in every Node.js.
  process.on("unhandledRejection", (error) => {
    logError({ ...described(error), errorType: "Runtime.UnhandledPromiseRejection" });
    process.exit(128);
  });
  node.socket.write(NEXT);
  for (;;) {
    const { headers, body } = await node.receive();
    const requestId = headers["lambda-runtime-aws-request-id"];
    if (requestId === undefined) {
      // The answer before was refused.
      node.socket.write(NEXT);
      continue;
    }
    current = requestId;
    if (headers["content-type"] === BATCH) {
      const made = runBatch(handler, headers, body);
      const answer = made instanceof Promise ? await made : made;
      node.post(`invocation/${requestId}/response`, answer, { content: BATCH });
    } else {
      await runOne(node, handler, headers, body);
    }
  }
}

main();
