"""A handler as it is written for a Kafka trigger of AWS Lambda. It knows nothing of Millrace.

Of each reading it prints what came, and it reports the records that it could not use.
"""

import base64
import json
import logging

logger = logging.getLogger()
logger.setLevel(logging.INFO)


def lambda_handler(event, context):
    failures = []
    for partition, records in event["records"].items():
        for record in records:
            try:
                reading = json.loads(base64.b64decode(record["value"]))
                logger.info("%s@%d: %s is at %.1f", partition, record["offset"], reading["bed"], reading["c"])
            except (KeyError, TypeError, ValueError) as error:
                logger.warning("%s@%d cannot be used: %r", partition, record["offset"], error)
                failures.append(
                    {"itemIdentifier": {"partition": partition, "offset": record["offset"]}}
                )
    return {"batchItemFailures": failures}
