"""Reads batch frames; the layout is documented to the byte in ../src/lib.rs.

`frame.py < FRAME` prints one, a line for each thing in it.
"""

import struct
import sys

ABSENT, KEEP, ORDERS = 0xFFFFFFFF, 0xFFFFFFFE, ("none", "key", "partition")


def take(frame, start, length):
    if length == ABSENT:
        return None
    if start + length > len(frame):
        raise ValueError("a frame that points outside itself")
    return frame[start : start + length]


def text(frame, at):
    (length,) = struct.unpack_from("<I", frame, at)
    return take(frame, at + 4, length).decode(), at + 4 + length


def headers(frame, start, length, count):
    end, found = start + length, []
    for _ in range(count):
        (size,) = struct.unpack_from("<I", frame, start)
        name = take(frame[:end], start + 4, size)
        (length,) = struct.unpack_from("<I", frame, start + 4 + size)
        found.append((name, take(frame[:end], start + 8 + size, length)))
        start += 8 + size + len(found[-1][1] or b"")
    if start != end:
        raise ValueError("headers that do not parse")
    return found


def request(frame):
    head = struct.unpack_from("<BBBBHHQIIIIIII", frame)
    version, kind, order, _, _, entry, batch, count, parts, at, table, entries, arena, size = head
    if (version, kind, size) != (1, 1, len(frame)):
        raise ValueError("not a whole request of version 1")
    context, texts = {"deadline_ms": struct.unpack_from("<q", frame, at)[0]}, at + 8
    for name in ("cluster", "function", "revision", "trigger", "trace"):
        context[name], texts = text(frame, texts)
    partitions = []
    for _ in range(parts):
        (number,) = struct.unpack_from("<i", frame, table)
        topic, table = text(frame, table + 4)
        partitions.append((topic, number))
    records = []
    for at in range(entries, entries + count * entry, entry):
        it = struct.unpack_from("<qqIIIIIIIII", frame, at)
        key, value = take(frame, arena + it[4], it[5]), take(frame, arena + it[6], it[7])
        facts = (*partitions[it[2]], it[0], it[1], it[3])  # offset, timestamp, attempt
        records.append((*facts, key, value, headers(frame, arena + it[8], it[9], it[10])))
    return batch, ORDERS[order], context, records


def response(frame):
    head = struct.unpack_from("<BBHHHQIIIIIIII", frame)
    version, kind, each, _, entry, batch, count, made, failed, ends, at, fails, arena, size = head
    if (version, kind, size) != (1, 2, len(frame)):
        raise ValueError("not a whole response of version 1")
    ends = [("not run", "ok", "failed")[end] for end in take(frame, ends, count)]
    outputs = []
    for at in range(at, at + made * entry, entry):
        it = struct.unpack_from("<IiIIIIIIIII", frame, at)
        topic = take(frame, arena + it[2], it[3])
        key = KEEP if it[5] == KEEP else take(frame, arena + it[4], it[5])
        value, more = take(frame, arena + it[6], it[7]), headers(frame, arena + it[8], it[9], it[10])
        outputs.append((it[0], topic and topic.decode(), it[1], key, value, more))
    failures = []
    for at in range(fails, fails + failed * each, each):
        record, *it = struct.unpack_from("<IIIII", frame, at)
        pair = take(frame, arena + it[0], it[1]), take(frame, arena + it[2], it[3])
        failures.append((record, *(part.decode() for part in pair)))
    return batch, ends, outputs, failures


def shown(it):
    if isinstance(it, list):
        return "[" + " ".join(f"{name.hex()}={shown(value)}" for name, value in it) + "]"
    return "keep" if it == KEEP else "-" if it is None else it.hex() if isinstance(it, bytes) else str(it)


def main():
    frame = sys.stdin.buffer.read()
    if frame[1] == 1:
        batch, order, context, entries = request(frame)
        print(f"request {batch} {order}", *context.values(), sep="|")
    else:
        batch, ends, entries, failures = response(frame)
        print(f"response {batch}", *ends, sep="|")
        for failure in failures:
            print(*failure, sep="|")
    for entry in entries:
        print(*map(shown, entry), sep="|")


if __name__ == "__main__":
    main()
