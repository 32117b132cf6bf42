"""Tells people about gales: whoever works at the station, and from Beaufort 10 on everybody.

A handler that yields gives as many records as it yields, each to the trigger's output topic under
the key of the record that it was called with.
"""

WORDS = {8: "a gale", 9: "a strong gale", 10: "a storm", 11: "a violent storm", 12: "a hurricane"}


def handler(alert, context):
    words = WORDS[alert["beaufort"]]
    text = f"{alert['station']}: {words}, gusts of {alert['gust_m_s']:.1f} m/s at {alert['time']}"
    message = {"beaufort": alert["beaufort"], "text": text, "id": context.idempotency_key}
    yield {"to": alert["station"], **message}
    if 10 <= alert["beaufort"]:
        yield {"to": "everybody", **message}
