"""Judges a chain of two functions on Kafka with a client that shares no code with the node:
`judge.py BROKERS CLUSTER [zombies]`. Reads commands from its standard input, a line each, and answers each
with a line of JSON.

topics          makes the topics of the chain
look            reads what is new in all of them and in the groups, and judges it
owners          looks, and says when each epoch of each shard put out its first result, when each
                shard put out its newest, how long it was silent at most since the last time, and
                when a result was taken of an epoch below one that had begun
final RECORDS   reads everything once more, from the beginning, as what it must be at the end
planted         plants faults in copies of topics and in a group, each of which has to be found
"""

import asyncio
import json
import sys

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.structs import OffsetAndMetadata
from checker import (
    DISORDER,
    GAP,
    INPUT,
    KEYS,
    POSITION,
    REPAIRED_WITHIN_S,
    Checker,
    Origin,
    Stage,
    key_of,
    made,
    number_in,
)

PARTITIONS = 8
ORIGIN = "millrace-origin"
# Times are those at which the broker took a record.
STAMPED = {"message.timestamp.type": "LogAppendTime"}
# A coordinator that has just started says so; it is asked again.
PATIENCE_S = 30


class Follow:
    """Reads one topic on from where it was, up to where it ends now."""

    def __init__(self, brokers, topic, partitions):
        self.topic = topic
        self.places = [TopicPartition(topic, partition) for partition in partitions]
        self.next = dict.fromkeys(self.places, 0)
        self.held = []  # read, and beyond the ends of that look
        self.consumer = AIOKafkaConsumer(
            bootstrap_servers=brokers,
            enable_auto_commit=False,
            auto_offset_reset="none",
            max_partition_fetch_bytes=1 << 20,
        )

    async def start(self):
        await self.consumer.start()
        self.consumer.assign(self.places)
        for place in self.places:
            self.consumer.seek(place, 0)

    async def ends(self):
        return await self.consumer.end_offsets(self.places)

    async def read(self, ends, each):
        """Tells `each` every record below `ends`, in the order of its partition."""
        fresh, self.held = self.held, []
        while True:
            for record in fresh:
                place = TopicPartition(record.topic, record.partition)
                if record.offset < ends[place]:
                    each(record)
                    self.next[place] = record.offset + 1
                else:
                    self.held.append(record)
            if all(ends[place] <= self.next[place] for place in self.places):
                return
            fetched = await self.consumer.getmany(timeout_ms=1000)
            fresh = [record for records in fetched.values() for record in records]

    async def stop(self):
        await self.consumer.stop()


class World:
    """The chain, or a part of it, as far as it was read."""

    def __init__(self, brokers, admin, chain, partitions=range(PARTITIONS), has_zombies=False):
        """`chain`: per stage its source, its results' topics and its group."""
        self.admin, self.partitions = admin, partitions
        self.stages, self.groups, self.follows, roles = [], [], [], {}
        for source, results, group in chain:
            stage = Stage(source, partitions, is_first=source == "in")
            self.stages.append(stage)
            self.groups.append(group)
            roles.setdefault(source, [None, None])[0] = stage
            for topic in results:
                roles.setdefault(topic, [None, None])[1] = stage
        # Sources before results, as the chain goes.
        for topic, (source_of, result_of) in roles.items():
            follow = Follow(brokers, topic, partitions)
            self.follows.append((follow, source_of, result_of))
        self.checker = Checker(self.stages, has_zombies)
        self.numbers = bytearray()  # which came out of the chain
        self.newest = {}

    async def start(self):
        for follow, _, _ in self.follows:
            await follow.start()

    async def look(self):
        """One look: offsets first, then ends against the way of the records, then the records."""
        before = self.stages[-1].outputs
        offsets = [await committed(self.admin, group) for group in self.groups]
        ends = [await follow.ends() for follow, _, _ in reversed(self.follows)]
        for (follow, source_of, result_of), end in zip(self.follows, reversed(ends)):
            await follow.read(end, self.teller(source_of, result_of))
        for stage, known in zip(self.stages, offsets):
            for place, it in known.items():
                if place.topic == stage.source and place.partition in stage.shards:
                    epoch, beyond = note(it.metadata)
                    self.checker.on_position(stage, place.partition, it.offset, beyond, epoch)
        self.checker.on_looked()
        return self.stages[-1].outputs - before

    def teller(self, source_of, result_of):
        checker = self.checker

        def each(record):
            if result_of is not None:
                found = [value for name, value in record.headers if name == ORIGIN]
                if len(found) != 1:
                    raise ValueError(f"{record.topic}[{record.partition}]@{record.offset}: {found}")
                checker.on_result(
                    result_of,
                    record.partition,
                    record.key,
                    record.value,
                    Origin(found[0]),
                    record.timestamp,
                )
                if result_of is self.stages[-1] and source_of is None:
                    self.came_out(number_in(record.value))
            if source_of is not None:
                checker.on_source(
                    source_of, record.partition, record.offset, record.key, record.value
                )

        return each

    def came_out(self, number):
        """From end to end: the numbers of a key come out in their order."""
        if number < 0:
            return
        if len(self.numbers) <= number:
            self.numbers.extend(bytes(number + 1 - len(self.numbers)))
        if not self.numbers[number]:
            key, self.numbers[number] = number % KEYS, 1
            if number < self.newest.get(key, -1):
                self.checker.found(DISORDER, f"{number} came out after {self.newest[key]}")
            self.newest[key] = number

    def end(self, records):
        """Everything is settled, and what went in is what came out."""
        self.checker.on_end()
        shards = self.stages[0].shards.values()
        went_in = sorted(number for shard in shards for number in shard.numbers)
        if went_in != list(range(records)):
            self.checker.found(INPUT, f"{len(went_in)} inputs are not the {records} of the load")
        if self.numbers != b"\x01" * records:
            self.checker.found(GAP, f"{sum(self.numbers)} of {records} numbers came out")

    def said(self, **more):
        checker, (first, last) = self.checker, (self.stages[0], self.stages[-1])
        return {
            "findings": checker.counts,
            "accounts": [str(account) for account in checker.accounts],
            "open": checker.open(),
            "behind_ms": checker.behind_ms,
            "outputs": sum(stage.outputs for stage in {first, last}),
            "dead_letters": sum(stage.dead_letters for stage in {first, last}),
            "repeats": sum(stage.repeats for stage in {first, last}),
            "repeats_most": max(first.repeats_most, last.repeats_most),
            **more,
        }

    async def stop(self):
        for follow, _, _ in self.follows:
            await follow.stop()


async def committed(admin, group):
    for _ in range(10 * PATIENCE_S):
        try:
            return await admin.list_consumer_group_offsets(group)
        except Exception as error:
            last = error
            await asyncio.sleep(0.1)
    raise last


def note(text):
    """The epoch and the completion map that are committed beside an offset:
    `1;shard;epoch;topic id;start-end,...`, and perhaps what may have ended a node."""
    _, _, epoch, _, ranges, *_ = text.split(";")
    pairs = (it.split("-") for it in ranges.split(",") if it)
    return int(epoch), [(int(first), int(end)) for first, end in pairs]


class Judge:
    def __init__(self, brokers, cluster, zombies=""):
        self.brokers, self.has_zombies = brokers, zombies == "zombies"
        self.group = f"millrace.{cluster}.chain.second.second"
        self.chain = [
            ("in", ["chain.first.dead", "mid"], f"millrace.{cluster}.chain.first.first"),
            ("mid", ["chain.second.dead", "out"], self.group),
        ]
        self.admin, self.world = AIOKafkaAdminClient(bootstrap_servers=brokers), None

    async def make(self, topics, partitions=PARTITIONS):
        made = await self.admin.create_topics([NewTopic(it, partitions, 1, topic_configs=STAMPED) for it in topics])
        refused = [it for it in made.topic_errors if it[1]]
        if refused:
            raise ValueError(f"topics: {refused}")

    async def topics(self):
        await self.admin.start()
        await self.make(["in", "mid", "out", "chain.first.dead", "chain.second.dead"])
        self.world = self.whole()
        await self.world.start()
        return {}

    def whole(self):
        return World(self.brokers, self.admin, self.chain, has_zombies=self.has_zombies)

    async def look(self):
        fresh = await self.world.look()
        return self.world.said(new_outputs=fresh)

    async def owners(self):
        fresh = await self.world.look()
        checker = self.world.checker
        began = [[*shard, time_ms] for shard, time_ms in checker.began.items()]
        newest = [[*shard, time_ms] for shard, time_ms in checker.newest_ms.items()]
        silent = [[*shard, time_ms] for shard, time_ms in checker.silent_ms.items()]
        checker.silent_ms = {}
        stale = [[*shard, time_ms] for shard, time_ms in checker.stale.items()]
        times = {"began": began, "newest": newest, "silent": silent, "stale": stale}
        return self.world.said(new_outputs=fresh, back_ms=int(1_000 * checker.back_s), **times)

    async def final(self, records):
        # What one look after the other has seen has to be there in one look, too. Repeats of an owner
        # that was late may come between the two: then once more.
        for again in reversed(range(5)):
            world = self.whole()
            await world.start()
            await world.look()
            await self.world.look()
            whole, seen = world.said(), self.world.said()
            differ = [it for it in ("outputs", "repeats") if whole[it] != seen[it]]
            if not differ or not again:
                break
            await world.stop()
            await asyncio.sleep(0.5)
        world.end(int(records))
        await world.stop()
        for what in differ:
            world.checker.found(GAP, f"{whole[what]} {what}, {seen[what]} were seen")
        # What belongs to one life only the looks have seen.
        return world.said(**{it: seen[it] for it in ("repeats_most", "behind_ms")})

    async def opened(self, topic, group=None):
        """The second stage, as far as its first partition goes, with its results in `topic`."""
        chain = [("mid", [topic], group or self.group)]
        world = World(self.brokers, self.admin, chain, [0], self.has_zombies)
        await world.start()
        await world.look()
        return world

    async def part(self, topic):
        """The same, to its end."""
        world = await self.opened(topic)
        world.checker.on_end()
        await world.stop()
        return world

    async def planted(self):
        red = {}
        intact = await self.part("out")
        if intact.checker.counts:
            raise ValueError(f"before anything is planted: {intact.said()}")
        records = await self.records("out", 0)
        at = chosen(records, intact.stages[0])
        dropped = records[: at[0]] + records[at[0] + 1 :]
        swapped = list(records)
        swapped[at[0]], swapped[at[1]] = records[at[1]], records[at[0]]
        for name, copy, kind in [("dropped", dropped, GAP), ("reordered", swapped, DISORDER)]:
            red[name] = (await self.copied(name, copy)).checker.counts.get(kind, 0)
        if self.has_zombies:
            world = await self.copied("stale", [*records, of_epoch_zero(records[-1])])
            red["stale"] = sum(epoch == 0 for _, _, epoch in world.checker.stale)
            red["back"] = await self.back()
        await self.advance()
        red["advanced"] = (await self.part("out")).checker.counts.get(GAP, 0)
        return {"red": red}

    async def copied(self, name, records):
        """What is found where these are the results."""
        await self.make([f"planted.{name}"], 1)
        await self.produce(f"planted.{name}", records)
        return await self.part(f"planted.{name}")

    async def back(self):
        """Commits an older offset of an older epoch, in a group of its own, and nobody repairs it:
        how often that is found. It may not be found at once."""
        place, group = TopicPartition("mid", 0), "planted.back"
        known = (await committed(self.admin, self.group))[place]
        await self.commit(group, place, known.offset, known.metadata)
        world = await self.opened("out", group)
        version, shard, _, rest = known.metadata.split(";", 3)
        await self.commit(group, place, known.offset - 1, f"{version};{shard};0;{rest}")
        await world.look()
        if world.checker.counts:
            raise ValueError(f"an offset that has just gone back: {world.said()}")
        await asyncio.sleep(REPAIRED_WITHIN_S)
        await world.look()
        await world.stop()
        return world.checker.counts.get(POSITION, 0)

    async def commit(self, group, place, offset, metadata):
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self.brokers, group_id=group, enable_auto_commit=False
        )
        await consumer.start()
        consumer.assign([place])
        await consumer.commit({place: OffsetAndMetadata(offset, metadata)})
        await consumer.stop()

    async def records(self, topic, partition):
        found, follow = [], Follow(self.brokers, topic, [partition])
        await follow.start()
        await follow.read(await follow.ends(), found.append)
        await follow.stop()
        return [(it.key, it.value, it.headers) for it in found]

    async def produce(self, topic, records):
        producer = AIOKafkaProducer(bootstrap_servers=self.brokers, enable_idempotence=True)
        await producer.start()
        for key, value, headers in records:
            await producer.send(topic, value, key, 0, headers=list(headers))
        await producer.stop()

    async def advance(self):
        """Commits an offset past a record that nobody has run."""
        await self.produce("mid", [(key_of(0), made(0), [])])
        place = TopicPartition("mid", 0)
        known = (await committed(self.admin, self.group))[place]
        await self.commit(self.group, place, known.offset + 1, known.metadata)


def chosen(records, stage):
    """Two outputs of one key that are there once and follow one another."""
    shard, seen = stage.shards[0], {}
    for at, (key, _, headers) in enumerate(records):
        origin = Origin(dict(headers)[ORIGIN])
        if shard.results[origin.offset] == 1:
            if key in seen:
                return seen[key], at
            seen[key] = at
    raise ValueError("no key has two outputs to plant a fault in")


def of_epoch_zero(record):
    """The same result, put out under an epoch below all others."""
    key, value, headers = record
    origin = dict(headers)[ORIGIN].rsplit(b";", 1)[0] + b";0"
    return key, value, [(ORIGIN, origin)]


async def main(*arguments):
    judge, loop = Judge(*arguments), asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        command, *arguments = line.split()
        answer = await getattr(judge, command)(*arguments)
        print(json.dumps(answer), flush=True)
    await judge.world.stop()
    await judge.admin.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
