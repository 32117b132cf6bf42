"""Tells what lies in topics of Kafka, whoever wrote it: `dump.py BROKERS`. Reads names of topics from
its standard input, a line each, and answers each with a line of JSON: {"records": [[partition, key,
value, {header: value}, offset, timestamp], ...]}, each partition in its order, texts where there are
bytes.
"""

import asyncio
import json
import sys

from aiokafka import AIOKafkaConsumer, TopicPartition


def text(found):
    return None if found is None else found.decode("utf-8", "replace")


async def read(brokers, topic):
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
                for it in records:
                    headers = {name: text(value) for name, value in it.headers}
                    said = [place.partition, text(it.key), text(it.value), headers]
                    found.append([*said, it.offset, it.timestamp])
                if ends[place] <= records[-1].offset + 1:
                    left.discard(place)
    finally:
        await consumer.stop()
    return {"records": found}


def main():
    for line in sys.stdin:
        print(json.dumps(asyncio.run(read(sys.argv[1], line.strip()))), flush=True)


main()
