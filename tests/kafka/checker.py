"""Decides from what was read of Kafka whether every record was delivered as promised, at least
once. Knows topics, offsets and origins, and nothing of how they were read; shares no code with
the node, nor with the checker of the embedded bus.

DEL-1  at the end every source record is settled, and has its output or its dead letter.
DEL-4  a result's source exists, and what it says is what the function makes of that source.
DEL-6  per key and epoch the sources of outputs strictly increase; over all epochs the first
       occurrences of a key's outputs are in source order: a repeat restarts earlier and never
       reorders. A key's outputs lie in one partition.
DEL-7  every record below a committed offset, and in its completion map, has its result, whenever
       that was looked at; an offset does not go back, nor pass the end.
ONCE   what a committed offset settled is never run again: a repeat is of what was not committed.
OWN-5  no result of an epoch is there after one of a higher epoch of its shard.

Where owners are stopped and go on as zombies, the last two cannot hold at once: then such results
are told with their times, and a committed offset that went back has to be back within two seconds.

Counted, not judged: repeats, and how far a committed offset was behind when the node died, from
the first result that it does not settle to the last, in the broker's time.

Records are numbered; the number says what their keys and values are.
"""

import time
from array import array

KEYS = 10_000
ACCOUNTS_MAX = 20
SPREAD = 0x9E3779B97F4A7C15
# What a zombie's commit moved back is restored within 2 s (OWN-5); a look comes a little later.
REPAIRED_WITHIN_S = 2.5

GAP = "gap (DEL-1, DEL-7)"
PHANTOM = "phantom (DEL-4)"
DISORDER = "disorder (DEL-6)"
POSITION = "position (DEL-7)"
UNSETTLED = "unsettled (DEL-1)"
REPEATED = "repeated after its commit (ONCE)"
STALE = "stale result (OWN-5)"
INPUT = "input"


def key_of(number):
    return b"key-%05d" % (number % KEYS)


def given(number):
    """The value of a source record, as the load makes it."""
    return b'{"n":%12d,"pad":"%080d"}' % (number, number * SPREAD % 2**64)


def made(number):
    """What the first function makes of it, and the second keeps."""
    return b'{"n":%d,"mark":%d}' % (number, number * 2654435761 % 2**32)


def number_in(value):
    """The number a value begins with, or -1."""
    digits = value[5 : value.find(b",")].strip() if value and value.startswith(b'{"n":') else b""
    return int(digits) if digits.isdigit() else -1


class Origin:
    """`1;topic;partition;offset;output index;revision;attempt;epoch`; `d` marks a dead letter."""

    __slots__ = ("topic", "partition", "offset", "index", "epoch")

    def __init__(self, text):
        version, self.topic, partition, offset, index, _, _, epoch = text.decode().split(";")
        if version != "1":
            raise ValueError(f"origin of version {version}")
        self.partition, self.offset, self.epoch = int(partition), int(offset), int(epoch)
        self.index = None if index == "d" else int(index)

    def __str__(self):
        return f"{self.topic}[{self.partition}]@{self.offset}/{self.index} of epoch {self.epoch}"


class Shard:
    """One source partition of a stage."""

    def __init__(self):
        self.numbers = array("q")  # by offset
        self.results = bytearray()  # by offset, how many, up to 255
        self.next = 0
        self.epoch = 0
        self.beyond = []
        self.back_since = None  # when a committed offset was first seen to have gone back
        # Of the look that is going on:
        self.repeats = 0
        self.fresh = []  # source offset of a result, and when the broker took it, in milliseconds

    def is_settled(self, offset):
        return offset < self.next or any(start <= offset < end for start, end in self.beyond)


class Stage:
    """One trigger: what it reads, and what becomes of that."""

    def __init__(self, source, partitions, is_first):
        self.source, self.is_first = source, is_first
        self.shards = {partition: Shard() for partition in partitions}
        self.newest = array("q", [-1]) * KEYS  # per key: the newest source that has an output
        self.epochs = {}  # per epoch: the same
        self.places = array("b", [-1]) * KEYS  # per key: where its outputs lie
        self.outputs = self.dead_letters = self.repeats = self.repeats_most = 0


class Checker:
    """The verdict in the making."""

    def __init__(self, stages, has_zombies=False):
        self.stages, self.has_zombies = stages, has_zombies
        self.counts, self.accounts = {}, []
        self.behind_ms = 0
        self.began = {}  # (source, partition, epoch) -> when its first result was taken, in ms
        self.newest_ms = {}  # (source, partition) -> when its newest result was taken
        self.silent_ms = {}  # (source, partition) -> the longest time between two results, of late
        self.newest_epoch = {}  # (source, partition) -> the highest epoch that has a result
        self.stale = {}  # (source, partition, epoch) -> when the newest result of it was taken, late
        self.back_s = 0.0  # how long a committed offset had gone back, at most

    def found(self, kind, account):
        self.counts[kind] = self.counts.get(kind, 0) + 1
        if len(self.accounts) < ACCOUNTS_MAX:
            self.accounts.append(f"{kind}: {account}")

    def on_source(self, stage, partition, offset, key, value):
        """A source record is there. All are told, in the order of their partition."""
        shard, number = stage.shards[partition], number_in(value)
        name = f"{stage.source}[{partition}]@{offset}"
        if offset != len(shard.numbers):
            self.found(INPUT, f"{name} follows {len(shard.numbers) - 1}")
            return
        if key != key_of(number) or value != (given if stage.is_first else made)(number):
            self.found(INPUT, f"{name} is none of the load's: {key} {value}")
        shard.numbers.append(number)
        shard.results.append(0)

    def on_result(self, stage, place, key, value, origin, time_ms):
        """An output or a dead letter is there, in partition `place`. Those of a key are told in
        the order they lie in."""
        shard, offset = stage.shards.get(origin.partition), origin.offset
        if origin.topic != stage.source or not shard or not 0 <= offset < len(shard.numbers):
            self.found(PHANTOM, f"no source for {origin}")
            return
        number, of = shard.numbers[offset], (origin.topic, origin.partition)
        is_stale = origin.epoch < self.newest_epoch.get(of, 0)
        if origin.index is None:
            stage.dead_letters += 1
        elif origin.index != 0 or key != key_of(number) or value != made(number):
            self.found(PHANTOM, f"{origin} is {key} {value}")
            return
        else:
            stage.outputs += 1
            self.in_order(stage, shard, place, number % KEYS, origin)
        if shard.results[offset]:
            stage.repeats += 1
            shard.repeats += 1
            stage.repeats_most = max(stage.repeats_most, shard.repeats)
            if shard.is_settled(offset) and not (self.has_zombies and is_stale):
                self.found(REPEATED, origin)
        if is_stale:
            self.stale[(*of, origin.epoch)] = time_ms
            if not self.has_zombies:
                self.found(STALE, origin)
        self.newest_epoch[of] = max(origin.epoch, self.newest_epoch.get(of, 0))
        shard.fresh.append((offset, time_ms))
        self.began.setdefault((origin.topic, origin.partition, origin.epoch), time_ms)
        silent = time_ms - self.newest_ms.get(of, time_ms)
        self.silent_ms[of] = max(self.silent_ms.get(of, 0), silent)
        self.newest_ms[of] = time_ms
        shard.results[offset] = min(255, shard.results[offset] + 1)

    def in_order(self, stage, shard, place, key, origin):
        offset, epoch = origin.offset, origin.epoch
        if stage.places[key] not in (-1, place):
            self.found(DISORDER, f"key {key} in partition {stage.places[key]}, and {place}: {origin}")
        stage.places[key] = place
        last = stage.epochs.get(epoch)
        if last is None:
            last = stage.epochs[epoch] = array("q", [-1]) * KEYS
        if offset <= last[key]:
            self.found(DISORDER, f"key {key}: {origin} after {last[key]} of the same epoch")
        last[key] = offset
        if not shard.results[offset]:
            if offset < stage.newest[key]:
                self.found(DISORDER, f"key {key}: first {origin} after {stage.newest[key]}")
            stage.newest[key] = offset

    def on_position(self, stage, partition, following, beyond, epoch):
        """A committed offset and its completion map, read before the results that were told."""
        shard, name = stage.shards[partition], f"{stage.source}[{partition}]"
        end = len(shard.numbers)
        went_back = following < shard.next or epoch < shard.epoch
        is_late = went_back and self.is_late(shard)
        if is_late or (went_back and not self.has_zombies):
            was = f"{shard.next} of epoch {shard.epoch}"
            self.found(POSITION, f"{name} went back from {was} to {following} of epoch {epoch}")
        if end < max([following] + [last for _, last in beyond]):
            self.found(POSITION, f"{name} at {following} {beyond} passes the end {end}")
        for first, last in [(min(shard.next, following), following)] + beyond:
            at = shard.results.find(0, first, min(last, end))
            if 0 <= at:
                self.found(GAP, f"{name}@{at} is settled without a result")
        if went_back and self.has_zombies:
            return
        shard.back_since = None
        shard.next, shard.beyond, shard.epoch = following, beyond, epoch
        behind = [time for offset, time in shard.fresh if not shard.is_settled(offset)]
        if behind:
            self.behind_ms = max(self.behind_ms, shard.fresh[-1][1] - behind[0])

    def is_late(self, shard):
        """Whether a committed offset has gone back for longer than it may."""
        now = time.monotonic()
        shard.back_since = shard.back_since or now
        self.back_s = max(self.back_s, now - shard.back_since)
        return REPAIRED_WITHIN_S < now - shard.back_since

    def on_looked(self):
        """A look is over: what is repeated from now on is another life's."""
        for stage in self.stages:
            for shard in stage.shards.values():
                shard.repeats, shard.fresh = 0, []

    def on_end(self):
        """Everything has to be settled now."""
        for stage in self.stages:
            for partition, shard in stage.shards.items():
                name, end = f"{stage.source}[{partition}]", len(shard.numbers)
                if shard.next != end:
                    self.found(UNSETTLED, f"{name} at {shard.next}, its end is {end}")
                at = shard.results.find(0)
                if 0 <= at:
                    self.found(GAP, f"{name}@{at} has no result at the end")

    def open(self):
        """How many source records lie beyond the committed offsets."""
        shards = [shard for stage in self.stages for shard in stage.shards.values()]
        return sum(len(shard.numbers) - shard.next for shard in shards)
