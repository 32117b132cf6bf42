"""Brings numbered records to a topic of Kafka at a rate, some of them bad, and reads topics, whoever
works between: `poison.py BROKERS`. Reads commands from its standard input, a line each, and answers
each with a line of JSON.

topics N SOURCE OUTPUT..          makes them, N partitions each; an output's broker stamps the time
send TOPIC RATE FROM TO [N=HOW..] sends these numbers, so many a second; answers when all are there
read TOPIC FILE                   writes all of its records into a file, a line of JSON each
"""

import asyncio
import json
import sys
import time

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

TICK_S = 0.01


def key_of(number):
    return b"key-%d" % (number % 4001) if number % 2 == 0 else None


def value_of(number, how):
    if how == "undecodable":
        return b'{"n":%d,"at":' % number
    deed = ',"do":"%s"' % how if how else ""
    return ('{"n":%d,"at":%.6f%s}' % (number, time.time(), deed)).encode()


async def make(brokers, partitions, source, *outputs):
    admin = AIOKafkaAdminClient(bootstrap_servers=brokers)
    await admin.start()
    stamped = {"message.timestamp.type": "LogAppendTime"}
    topics = [NewTopic(source, int(partitions), 1)]
    topics += [NewTopic(it, int(partitions), 1, topic_configs=stamped) for it in outputs]
    await admin.create_topics(topics)
    await admin.close()
    return {}


async def send(producer, topic, rate, begin, end, *bad):
    rate, begin, end = float(rate), int(begin), int(end)
    bad = dict((int(number), how) for number, how in (it.split("=") for it in bad))
    started, sent, number = time.monotonic(), [], begin
    while number < end:
        due = min(end, begin + int(rate * (time.monotonic() - started)))
        for number in range(number, due):
            value = value_of(number, bad.get(number))
            sent.append(await producer.send(topic, value, key_of(number)))
        number = due
        await asyncio.sleep(TICK_S)
    results = await asyncio.gather(*sent, return_exceptions=True)
    return {"refused": sum(isinstance(it, Exception) for it in results)}


async def read(brokers, topic, file):
    """Every record of a topic, each partition in its order."""
    consumer = AIOKafkaConsumer(
        topic, bootstrap_servers=brokers, enable_auto_commit=False, auto_offset_reset="earliest"
    )
    await consumer.start()
    count = 0
    try:
        partitions = [TopicPartition(topic, it) for it in consumer.partitions_for_topic(topic)]
        ends = await consumer.end_offsets(partitions)
        left = {it for it in partitions if ends[it]}
        with open(file, "w") as out:
            while left:
                for place, records in (await consumer.getmany(timeout_ms=1_000)).items():
                    for it in records:
                        headers = {name: (value or b"").decode() for name, value in it.headers}
                        line = {"value": it.value.decode(), "at_ms": it.timestamp, "headers": headers}
                        out.write(json.dumps(line) + "\n")
                        count += 1
                    if ends[place] <= records[-1].offset + 1:
                        left.discard(place)
    finally:
        await consumer.stop()
    return {"records": count}


async def main(brokers):
    loop = asyncio.get_running_loop()
    producer = AIOKafkaProducer(bootstrap_servers=brokers, enable_idempotence=True, linger_ms=5)
    await producer.start()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        command, *arguments = line.split()
        if command == "topics":
            said = await make(brokers, *arguments)
        elif command == "send":
            said = await send(producer, *arguments)
        elif command == "read":
            said = await read(brokers, *arguments)
        print(json.dumps(said), flush=True)
    await producer.stop()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
