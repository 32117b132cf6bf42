"""Brings numbered records to a topic of Kafka at a rate, and judges what became of them, whoever
ran them: `stubborn.py BROKERS SOURCE OUTPUTS DEAD`. Reads commands from its standard input, a line
each, and answers each with a line of JSON.

topics             makes the source and the output, 8 partitions each
rate N             sends so many records a second from now on; 0 stops when all are acknowledged
judge A B C D ..   reads everything: p99 and rate of the other keys' records A..B, C..D and so on
"""

import asyncio
import json
import sys
import time

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

TICK_S = 0.01
HOT = b"hot"


def key_of(number):
    return HOT if number % 100 == 7 else b"key-%d" % (number % 997)


class Load:
    def __init__(self, brokers, topic):
        self.brokers, self.topic = brokers, topic
        self.sent, self.acknowledged, self.rate = 0, 0, 0.0
        self.refused = 0

    async def run(self):
        producer = AIOKafkaProducer(
            bootstrap_servers=self.brokers, enable_idempotence=True, linger_ms=5
        )
        await producer.start()
        due, last = 0.0, time.monotonic()
        while True:
            now = time.monotonic()
            due = min(due + self.rate * (now - last), 2_000)
            last = now
            for number in range(self.sent, self.sent + int(due)):
                value = json.dumps({"n": number, "at": time.time()}).encode()
                sent = await producer.send(self.topic, value, key_of(number))
                sent.add_done_callback(self.on_acknowledged)
            self.sent += int(due)
            due -= int(due)
            await asyncio.sleep(TICK_S)

    def on_acknowledged(self, sent):
        self.refused += sent.exception() is not None
        self.acknowledged += 1


async def read_all(brokers, topic):
    """Every record of a topic, each partition in its order."""
    consumer = AIOKafkaConsumer(
        topic, bootstrap_servers=brokers, enable_auto_commit=False, auto_offset_reset="earliest"
    )
    await consumer.start()
    found = []
    try:
        partitions = [TopicPartition(topic, it) for it in consumer.partitions_for_topic(topic)]
        ends = await consumer.end_offsets(partitions)
        left = {it for it in partitions if ends[it]}
        while left:
            for place, records in (await consumer.getmany(timeout_ms=1_000)).items():
                found += [(place.partition, it.key, it.value) for it in records]
                if ends[place] <= records[-1].offset + 1:
                    left.discard(place)
    finally:
        await consumer.stop()
    return found


def a_second(times):
    return len(times) / max(max(times) - min(times), 0.001)


def figures(outputs, begin, end):
    """Of the other keys' first outputs: how long until they ran, and how many came and ran a second."""
    these = [it for it in outputs if begin <= it["n"] < end]
    if not these:
        return {"p99_ms": 0.0, "rate": 0.0, "sent": 0.0}
    waits = sorted(it["ran"] - it["at"] for it in these)
    return {
        "p99_ms": 1_000 * waits[len(waits) * 99 // 100],
        "rate": a_second([it["ran"] for it in these]),
        "sent": a_second([it["at"] for it in these]),
    }


def verdict(given, came, lost):
    """What is wrong, if anything; the first outputs of the hot key and of the others; repeats."""
    first, hot, others, repeats = set(), [], [], 0
    for _, key, value in came:
        it = json.loads(value)
        if key != key_of(it["n"]):
            return f"the output of {it['n']} has the key {key}", hot, others, repeats
        if it["n"] in first:
            repeats += 1
            continue
        first.add(it["n"])
        (hot if key == HOT else others).append(it)
    numbers = {json.loads(value)["n"] for _, _, value in given}
    missing = sorted(numbers - first)
    order = [it["n"] for it in hot]
    finding = None
    if missing:
        finding = f"{len(missing)} records have no output, the first is {missing[0]} (DEL-1)"
    elif first - numbers:
        finding = "outputs of records that were never sent (DEL-4)"
    elif order != sorted(order):
        finding = "the stubborn key's records came out of order (DEL-6)"
    elif lost:
        finding = f"{len(lost)} dead letters, but each record ends well at last"
    return finding, hot, others, repeats


def planted(given, came, hot):
    """Whether a missing output and two in the wrong order are noticed, each by its name."""
    value = {json.loads(it[2])["n"]: it for it in came}
    one, two = (value[it["n"]] for it in hot[len(hot) // 2 :][:2])
    swapped = [two if it is one else one if it is two else it for it in came]
    number = json.loads(one[2])["n"]
    without = [it for it in came if json.loads(it[2])["n"] != number]
    found = [verdict(given, it, [])[0] for it in (without, swapped)]
    return sum(name in str(it) for name, it in zip(("DEL-1", "DEL-6"), found))


async def judge(load, outputs, dead, ranges):
    given = await read_all(load.brokers, load.topic)
    came = await read_all(load.brokers, outputs)
    lost = await read_all(load.brokers, dead)
    finding, hot, others, repeats = verdict(given, came, lost)
    return {
        "finding": finding, "records": len(given), "hot": len(hot), "repeats": repeats,
        "red": planted(given, came, hot) if finding is None else 0,
        "seen": [figures(others, *it) for it in zip(ranges[::2], ranges[1::2])],
    }


async def main(brokers, source, outputs, dead):
    load, loop = Load(brokers, source), asyncio.get_running_loop()
    running = None
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        command, *arguments = line.split()
        said = {}
        if command == "topics":
            admin = AIOKafkaAdminClient(bootstrap_servers=brokers)
            await admin.start()
            await admin.create_topics([NewTopic(it, 8, 1) for it in (source, outputs)])
            await admin.close()
        elif command == "rate":
            running = running or asyncio.create_task(load.run())
            load.rate = float(arguments[0])
            while load.rate == 0 and load.acknowledged < load.sent:
                await asyncio.sleep(TICK_S)
        elif command == "judge":
            said = await judge(load, outputs, dead, [int(it) for it in arguments])
        if running and running.done():
            running.result()
        said |= {"sent": load.sent, "refused": load.refused}
        print(json.dumps(said), flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
