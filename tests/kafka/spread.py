"""Watches the outputs of a function that reads very many partitions, with a client that shares no code
with the node: `spread.py BROKERS APP PARTITIONS`. Reads commands from its standard input, a line each,
and answers each with a line of JSON.

topics   makes `in`, `out` and the topic of dead letters
look     reads what is new in `out`: by source partition the newest epoch, when its first output was
         taken, and the longest time between two outputs since the last look, in milliseconds
final    how many records `in` has, of how many of them there is an output, and how many outputs are
         there again
"""

import asyncio
import json
import sys

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

ORIGIN = "millrace-origin"
# Times are those at which the broker took a record.
STAMPED = {"message.timestamp.type": "LogAppendTime"}


class Source:
    """One source partition."""

    def __init__(self):
        self.epoch, self.began_ms, self.newest_ms, self.silent_ms = 0, None, None, 0
        self.seen, self.repeats = set(), 0

    def on_output(self, offset, epoch, time_ms):
        if self.newest_ms is not None:
            self.silent_ms = max(self.silent_ms, time_ms - self.newest_ms)
        if self.epoch < epoch:
            self.epoch, self.began_ms = epoch, time_ms
        self.newest_ms = time_ms
        self.repeats += offset in self.seen
        self.seen.add(offset)


class Spread:
    def __init__(self, brokers, app, partitions):
        self.brokers, self.app, self.partitions = brokers, app, int(partitions)
        self.sources = [Source() for _ in range(self.partitions)]
        self.consumer = None

    async def topics(self):
        admin = AIOKafkaAdminClient(bootstrap_servers=self.brokers)
        await admin.start()
        names = ["in", "out", f"{self.app}.same.dead"]
        topics = [NewTopic(it, self.partitions, 1, topic_configs=STAMPED) for it in names]
        made = await admin.create_topics(topics)
        refused = [it for it in made.topic_errors if it[1]]
        await admin.close()
        if refused:
            raise ValueError(f"topics: {refused}")
        self.consumer = AIOKafkaConsumer(
            bootstrap_servers=self.brokers, enable_auto_commit=False, auto_offset_reset="earliest"
        )
        await self.consumer.start()
        self.consumer.assign(self.places("out"))
        return {}

    def places(self, topic):
        return [TopicPartition(topic, partition) for partition in range(self.partitions)]

    async def read(self):
        """Reads on to where `out` ends now."""
        ends = await self.consumer.end_offsets(self.places("out"))
        open_ = {place for place, end in ends.items() if end}
        while open_:
            for records in (await self.consumer.getmany(timeout_ms=200)).values():
                for record in records:
                    _, _, partition, offset, *_, epoch = (
                        dict(record.headers)[ORIGIN].decode().split(";")
                    )
                    self.sources[int(partition)].on_output(
                        int(offset), int(epoch), record.timestamp
                    )
            positions = {place: await self.consumer.position(place) for place in open_}
            open_ = {place for place in open_ if positions[place] < ends[place]}

    async def look(self):
        await self.read()
        rows = [[it.epoch, it.began_ms, it.silent_ms] for it in self.sources]
        for source in self.sources:
            source.silent_ms = 0
        return {"sources": rows}

    async def final(self):
        await self.read()
        inputs = await self.consumer.end_offsets(self.places("in"))
        return {
            "inputs": sum(inputs.values()),
            "distinct": sum(len(it.seen) for it in self.sources),
            "repeats": sum(it.repeats for it in self.sources),
        }


async def main(*arguments):
    spread, loop = Spread(*arguments), asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        print(json.dumps(await getattr(spread, line.strip())()), flush=True)
    if spread.consumer:
        await spread.consumer.stop()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
