// Reads batch frames; the layout is documented to the byte in ../src/lib.rs.
//
// `node frame.js < FRAME` prints one, a line for each thing in it.
"use strict";

const ABSENT = 0xffffffff;
const KEEP = 0xfffffffe;
const ORDERS = ["none", "key", "partition"];
const ENDS = ["not run", "ok", "failed"];

const u16 = (frame, at) => frame.readUInt16LE(at);
const u32 = (frame, at) => frame.readUInt32LE(at);

function take(frame, start, length) {
  if (length === ABSENT) return null;
  if (start + length > frame.length) throw new RangeError("a frame that points outside itself");
  return frame.subarray(start, start + length);
}

function text(frame, at) {
  const length = u32(frame, at);
  return [take(frame, at + 4, length).toString(), at + 4 + length];
}

function headers(frame, start, length, count) {
  const blob = take(frame, start, length);
  const found = [];
  let at = 0;
  for (let index = 0; index < count; index += 1) {
    const size = u32(blob, at);
    const name = take(blob, at + 4, size);
    const value = take(blob, at + 8 + size, u32(blob, at + 4 + size));
    found.push([name, value]);
    at += 8 + size + (value?.length ?? 0);
  }
  if (at !== length) throw new RangeError("headers that do not parse");
  return found;
}

function check(frame, kind, sizeAt) {
  if (frame[0] !== 1 || frame[1] !== kind || u32(frame, sizeAt) !== frame.length) {
    throw new RangeError("not a whole frame of version 1");
  }
}

function request(frame) {
  check(frame, 1, 40);
  const [contextAt, arena] = [u32(frame, 24), u32(frame, 36)];
  const context = { deadlineMs: frame.readBigInt64LE(contextAt) };
  let at = contextAt + 8;
  for (const name of ["cluster", "function", "revision", "trigger", "trace"]) {
    [context[name], at] = text(frame, at);
  }
  at = u32(frame, 28);
  const partitions = Array.from({ length: u32(frame, 20) }, () => {
    const partition = frame.readInt32LE(at);
    let topic;
    [topic, at] = text(frame, at + 4);
    return { topic, partition };
  });
  const records = Array.from({ length: u32(frame, 16) }, (_, index) => {
    const entry = u32(frame, 32) + index * u16(frame, 6);
    const word = (offset) => u32(frame, entry + offset);
    return {
      ...partitions[word(16)],
      offset: frame.readBigInt64LE(entry),
      timestamp: frame.readBigInt64LE(entry + 8),
      attempt: word(20),
      key: take(frame, arena + word(24), word(28)),
      value: take(frame, arena + word(32), word(36)),
      headers: headers(frame, arena + word(40), word(44), word(48)),
    };
  });
  return { batch: frame.readBigUInt64LE(8), order: ORDERS[frame[2]], context, records };
}

function response(frame) {
  check(frame, 2, 44);
  const arena = u32(frame, 40);
  const ends = Array.from(take(frame, u32(frame, 28), u32(frame, 16)), (end) => ENDS[end]);
  const outputs = Array.from({ length: u32(frame, 20) }, (_, index) => {
    const entry = u32(frame, 32) + index * u16(frame, 6);
    const word = (offset) => u32(frame, entry + offset);
    return {
      source: word(0),
      topic: take(frame, arena + word(8), word(12))?.toString() ?? null,
      partition: frame.readInt32LE(entry + 4), // -1: by the key
      key: word(20) === KEEP ? KEEP : take(frame, arena + word(16), word(20)),
      value: take(frame, arena + word(24), word(28)),
      headers: headers(frame, arena + word(32), word(36), word(40)),
    };
  });
  const failures = Array.from({ length: u32(frame, 24) }, (_, index) => {
    const entry = u32(frame, 36) + index * u16(frame, 2);
    const part = (at) => take(frame, arena + u32(frame, at), u32(frame, at + 4)).toString();
    return { record: u32(frame, entry), code: part(entry + 4), message: part(entry + 12) };
  });
  return { batch: frame.readBigUInt64LE(8), ends, outputs, failures };
}

function shown(it) {
  if (it === null) return "-";
  if (it === KEEP) return "keep";
  if (Buffer.isBuffer(it)) return it.toString("hex");
  if (!Array.isArray(it)) return String(it);
  return `[${it.map(([name, value]) => `${shown(name)}=${shown(value)}`).join(" ")}]`;
}

function main() {
  const frame = require("node:fs").readFileSync(0);
  const line = (...parts) => console.log(parts.map(shown).join("|"));
  if (frame[1] === 1) {
    const { batch, order, context, records } = request(frame);
    line(`request ${batch} ${order}`, ...Object.values(context));
    for (const record of records) line(...Object.values(record));
  } else {
    const { batch, ends, outputs, failures } = response(frame);
    line(`response ${batch}`, ...ends);
    for (const failure of failures) line(...Object.values(failure));
    for (const output of outputs) line(...Object.values(output));
  }
}

module.exports = { request, response, KEEP };
if (require.main === module) main();
