"""Brings records to one busy topic and to many quiet ones, and watches what comes out, with a client
that shares no code with the node: `autoscale.py BROKERS PARTITIONS QUIET`. Reads commands from its
standard input, a line each, and answers each with a line of JSON.

topics        makes `hot` with its partitions, the quiet topics `q-00`, `q-01`, ..., `few` with three
              partitions, `hot.out`, `quiet.out`, `few.out`, and the one of dead letters
rate N P      N records a second to `hot` from now on: to partition P, or over all for -1
quiet N       N records a second to each quiet topic from now on
few N         N records a second over all of `few` from now on
look          reads what is new: of `hot` how many records were sent, and the number that the newest
              sampled output of each partition says; of the quiet ones how many were sent, how many
              outputs there are, and how long each took that is new (milliseconds, the broker's clock
              at its end); of `few` how many were sent, and how many have an output
"""

import asyncio
import json
import sys
import time

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

TICK_S = 0.02
# Times are those at which the broker took a record.
STAMPED = {"message.timestamp.type": "LogAppendTime"}
# Errors of Kafka.
EXISTS, NO_REPLICAS = 36, 38
# Partitions of `few`.
FEW = 3
# The function says every so manieth record of a partition.
SAMPLE = 20


class Scale:
    def __init__(self, brokers, partitions, quiet):
        self.brokers, self.partitions = brokers, int(partitions)
        self.quiet = ["q-%02d" % number for number in range(int(quiet))]
        self.rate, self.only, self.quiet_rate = 0.0, -1, 0.0
        self.sent, self.quiet_sent, self.quiet_seen = [0] * self.partitions, 0, set()
        self.newest, self.took_ms = [0] * self.partitions, []
        self.few_rate, self.few_sent, self.few_seen = 0.0, 0, set()
        self.producer = self.consumer = None

    async def topics(self):
        admin = AIOKafkaAdminClient(bootstrap_servers=self.brokers)
        await admin.start()
        counts = {"hot": self.partitions, "few": FEW, "all.dead": 1}
        counts |= dict.fromkeys(["hot.out", "quiet.out", "few.out"], 1)
        counts |= dict.fromkeys(self.quiet, 1)
        topics = [NewTopic(it, many, 1, topic_configs=STAMPED) for it, many in counts.items()]
        for _attempt in range(30):
            made = await admin.create_topics(topics)
            refused = [it for it in made.topic_errors if it[1] not in (0, EXISTS)]
            if not any(it[1] == NO_REPLICAS for it in refused):
                break
            # The broker has only just come up.
            await asyncio.sleep(1)
        await admin.close()
        if refused:
            raise ValueError(f"topics: {refused}")
        self.producer = AIOKafkaProducer(bootstrap_servers=self.brokers, linger_ms=2)
        await self.producer.start()
        self.consumer = AIOKafkaConsumer(
            bootstrap_servers=self.brokers, enable_auto_commit=False, auto_offset_reset="earliest"
        )
        await self.consumer.start()
        self.outputs = [TopicPartition(it, 0) for it in ["hot.out", "quiet.out", "few.out"]]
        self.consumer.assign(self.outputs)
        return {}

    async def run(self):
        due, owed, few, last = 0.0, 0.0, 0.0, time.monotonic()
        while True:
            now = time.monotonic()
            # What a late tick owes is sent at once, up to a second of it.
            elapsed = min(now - last, 1.0)
            due, owed, last = due + self.rate * elapsed, owed + self.quiet_rate * elapsed, now
            few += self.few_rate * elapsed
            while 1 <= few:
                few -= 1
                key = value = b"%d" % self.few_sent
                await self.producer.send("few", value, key, partition=self.few_sent % FEW)
                self.few_sent += 1
            targets = range(self.partitions) if self.only < 0 else [self.only]
            each = int(due / len(targets))
            due -= each * len(targets)
            for partition in targets if each else []:
                await self.send(partition, each)
            if 1 <= owed:
                owed -= 1
                for topic in self.quiet:
                    value = b"%d %d" % (self.quiet_sent, time.time() * 1_000)
                    await self.producer.send(topic, value, b"%d" % self.quiet_sent)
                    self.quiet_sent += 1
            await asyncio.sleep(TICK_S)

    async def send(self, partition, count):
        """So many records as batches of the protocol: a call for each would cost a core."""
        batch = self.producer.create_batch()
        for _record in range(count):
            number = self.sent[partition]
            value, key = b"%d %d" % (partition, number), b"%d" % (number % 997)
            if batch.append(key=key, value=value, timestamp=None) is None:
                await self.producer.send_batch(batch, "hot", partition=partition)
                batch = self.producer.create_batch()
                batch.append(key=key, value=value, timestamp=None)
            self.sent[partition] += 1
        await self.producer.send_batch(batch, "hot", partition=partition)

    async def look(self):
        ends = await self.consumer.end_offsets(self.outputs)
        while any([await self.consumer.position(it) < ends[it] for it in self.outputs]):
            for place, records in (await self.consumer.getmany(timeout_ms=200)).items():
                for record in records:
                    # What a handler in Python returns is JSON, also where it is text.
                    if place.topic == "few.out":
                        self.few_seen.add(record.value)
                        continue
                    left, right = map(int, record.value.strip(b'"').split())
                    if place.topic == "hot.out":
                        self.newest[left] = max(self.newest[left], right + SAMPLE)
                    elif left not in self.quiet_seen:
                        self.quiet_seen.add(left)
                        self.took_ms.append(record.timestamp - right)
        took, self.took_ms = self.took_ms, []
        return {
            "sent": self.sent,
            "newest": self.newest,
            "quiet_sent": self.quiet_sent,
            "quiet_seen": len(self.quiet_seen),
            "took_ms": took,
            "few_sent": self.few_sent,
            "few_seen": len(self.few_seen),
        }


async def main(*arguments):
    scale, loop = Scale(*arguments), asyncio.get_running_loop()
    running = None
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        command, *words = line.split()
        answer = {}
        if command == "topics":
            answer = await scale.topics()
            running = asyncio.create_task(scale.run())
        elif command == "rate":
            scale.rate, scale.only = float(words[0]), int(words[1])
        elif command == "quiet":
            scale.quiet_rate = float(words[0])
        elif command == "few":
            scale.few_rate = float(words[0])
        elif command == "look":
            answer = await scale.look()
        if running and running.done():
            running.result()
        print(json.dumps(answer), flush=True)
    if running:
        running.cancel()
        await scale.consumer.stop()
        await scale.producer.stop()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
