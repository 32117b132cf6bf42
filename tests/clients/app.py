import base64, json, os

def one(value, where):
    if value["n"] < 0:
        raise ValueError("negative")
    if value["n"] == 99:
        os._exit(1)
    return {"twice": 2 * value["n"], "offset": where}

def handler(event, context):
    if "records" not in event:
        facts = json.loads(context.client_context.custom["millrace"])
        return one(event, facts["offset"])
    outputs, failures = [], []
    for group, records in event["records"].items():
        for record in records:
            source = {"partition": group, "offset": record["offset"]}
            try:
                value = one(json.loads(base64.b64decode(record["value"])), record["offset"])
                outputs.append({"value": value, "source": source})
            except ValueError:
                failures.append({"itemIdentifier": source})
    return {"batchItemFailures": failures, "$outputs": outputs}
