import os
from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType
from aws_lambda_powertools.utilities.data_classes import KafkaEvent, event_source

processor = BatchProcessor(event_type=EventType.Kafka)


def one(value, where):
    if value["n"] < 0:
        raise ValueError("negative")
    if value["n"] == 99:
        os._exit(1)
    return {"twice": 2 * value["n"], "offset": where}


def place(record):
    return {"partition": f"{record.topic}-{record.partition}", "offset": record.offset}


def on_record(record):
    assert record.decoded_headers["trace"] == b"\xc8", record.decoded_headers
    return {"value": one(record.json_value, record.offset), "source": place(record)}


@event_source(data_class=KafkaEvent)
def look(event, context):
    """The event as the data class shows it: each of its records, once."""
    assert event.event_source == "SelfManagedKafka", event.event_source
    assert event.decoded_bootstrap_servers, event.decoded_bootstrap_servers
    return [place(record) for record in event.records]


def batch(event, context):
    seen = look(event, context)
    records = [record for group in event["records"].values() for record in group]
    with processor(records, on_record):
        processed = processor.process()
    assert len(seen) == len(processed), (seen, processed)
    outputs = [result for status, result, _ in processed if status == "success"]
    return {**processor.response(), "$outputs": outputs}


def handler(event, context):
    if "records" in event:
        return batch(event, context)
    return one(event, context.offset)
