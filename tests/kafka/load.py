"""Brings numbered records to a topic of Kafka at a pace, whoever reads them or not:
`load.py BROKERS TOPIC RECORDS`. Reads commands from its standard input, a line each, and answers
each with a line of JSON: how many records were sent, and how many are acknowledged.

rate N M  sends so many records a second from now on, and at most so many
finish    sends the rest as fast as it can, and answers when all are acknowledged
left      only answers
"""

import asyncio
import json
import sys
import time

from aiokafka import AIOKafkaProducer
from checker import given, key_of

TICK_S = 0.01
AT_ONCE_MAX = 1_000


class Load:
    def __init__(self, brokers, topic, records):
        self.topic, self.records = topic, records
        self.sent = self.acknowledged = 0
        self.rate, self.most = 0.0, 0
        # Idempotent: a record is there once, and a key's records in their order. The client's
        # own partitioner is Kafka's default.
        self.producer = AIOKafkaProducer(
            bootstrap_servers=brokers, enable_idempotence=True, linger_ms=5
        )

    async def run(self):
        due, last = 0.0, time.monotonic()
        while self.sent < self.records:
            now = time.monotonic()
            # A pause is not made up for.
            due = min(due + self.rate * (now - last), AT_ONCE_MAX)
            last = now
            count = min(int(due), self.most, self.records - self.sent)
            self.most -= count
            due -= count
            for number in range(self.sent, self.sent + count):
                sent = await self.producer.send(self.topic, given(number), key_of(number))
                sent.add_done_callback(self.on_acknowledged)
            self.sent += count
            await asyncio.sleep(TICK_S if self.rate < AT_ONCE_MAX / TICK_S else 0)
        await self.producer.flush()

    def on_acknowledged(self, sent):
        # One that was refused is not counted: `finish` says so.
        self.acknowledged += sent.exception() is None


async def main(brokers, topic, records):
    load, loop = Load(brokers, topic, int(records)), asyncio.get_running_loop()
    await load.producer.start()
    running = asyncio.create_task(load.run())
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        command, *arguments = line.split()
        if command == "rate":
            load.rate, load.most = float(arguments[0]), int(arguments[1])
        elif command == "finish":
            load.rate, load.most = AT_ONCE_MAX / TICK_S, load.records
            await running
        if running.done():
            running.result()
        print(json.dumps({"sent": load.sent, "acknowledged": load.acknowledged}), flush=True)
    running.cancel()
    await load.producer.stop()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
