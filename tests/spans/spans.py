"""Spans as a collector passes them on, and what they say of records; knows nothing of Millrace but
its headers.

spans.py sink FILE            takes spans by OTLP over HTTP on a free port of 127.0.0.1, prints the
                              port, and writes each as a line of JSON
spans.py judge SPANS RECORDS  whether the spans connect input, middle and output records; prints a
                              line of JSON: the figures, or what is not so
spans.py plant SPANS RECORDS  how many planted mistakes the judge finds, and how many there are

A line of RECORDS is {"topic", "partition", "offset", "kind", "traceparent", "tracestate", "origin",
"told"}: `kind` says how its input record came ("own": alone, in a trace of its own; "many": in a
batch of several traces; "unsampled"; "none": without a context), `origin` where it comes from, `told`
what the function was told of its trace.
"""

import copy
import gzip
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

INPUT, MIDDLE, OUTPUT = "in", "middle", "out"


# --- the sink ------------------------------------------------------------------------------------


def value_of(value):
    return getattr(value, value.WhichOneof("value"), None) if value.WhichOneof("value") else None


def fields(attributes):
    return {it.key: value_of(it.value) for it in attributes}


def lines_of(request):
    for group in request.resource_spans:
        resource = fields(group.resource.attributes)
        for scope in group.scope_spans:
            for span in scope.spans:
                yield {
                    "trace": span.trace_id.hex(),
                    "span": span.span_id.hex(),
                    "parent": span.parent_span_id.hex(),
                    "state": span.trace_state,
                    "name": span.name,
                    "kind": span.kind,
                    "took": span.end_time_unix_nano - span.start_time_unix_nano,
                    "status": span.status.code,
                    "fields": fields(span.attributes),
                    "links": [
                        {"trace": it.trace_id.hex(), "span": it.span_id.hex(),
                         "fields": fields(it.attributes)}
                        for it in span.links
                    ],
                    "resource": resource,
                }


def sink(path):
    from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as service

    out = open(path, "a")

    class Taker(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            request = service.ExportTraceServiceRequest.FromString(body)
            text = "".join(json.dumps(line) + "\n" for line in lines_of(request))
            out.write(text)
            out.flush()
            answer = service.ExportTraceServiceResponse().SerializeToString()
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Taker)
    print(server.server_address[1], flush=True)
    server.serve_forever()


# --- the verdict ---------------------------------------------------------------------------------


class Wrong(Exception):
    pass


def demand(holds, text):
    if not holds:
        raise Wrong(text)


def context(traceparent):
    version, trace, span, flags = traceparent.split("-")
    demand(version == "00" and len(trace) == 32 and len(span) == 16, f"traceparent {traceparent}")
    return trace, span, flags


def place(record):
    return record["topic"], record["partition"], record["offset"]


def came_from(record):
    _, topic, partition, offset, _, _, attempt, _ = record["origin"].split(";")
    return (topic, int(partition), int(offset)), int(attempt)


def xray(told):
    """The W3C ids of X-Ray's form."""
    parts = dict(it.split("=", 1) for it in told.split(";"))
    return parts["Root"][2:].replace("-", ""), parts["Parent"], parts["Sampled"]


def hop(spans, source, output, name, figures):
    """The record `output` came out of an invocation whose span is tied to the record `source`."""
    where = f"{place(source)} -> {place(output)}"
    demand(output["traceparent"], f"{where}: the output carries no context")
    trace, span_id, flags = context(output["traceparent"])
    demand(flags == "01", f"{where}: flags {flags}")
    span = spans.get((trace, span_id))
    demand(span, f"{where}: nobody sent the span {span_id} of the trace {trace}")
    said = span["fields"]
    demand(span["name"] == said["faas.name"] == name, f"{where}: a span of {span['name']}")
    demand(span["kind"] == 5 and 0 <= span["took"], f"{where}: kind {span['kind']}, {span['took']} ns")
    demand(span["resource"].get("service.name") == "millrace", f"{where}: {span['resource']}")
    for needed in ("faas.version", "faas.trigger", "faas.invocation_id", "faas.coldstart",
                   "faas.instance",
                   "messaging.system", "messaging.operation.name", "messaging.destination.name",
                   "messaging.destination.partition.id", "messaging.consumer.group.name",
                   "messaging.batch.message_count", "messaging.kafka.offset"):
        demand(said.get(needed) not in (None, ""), f"{where}: no {needed}")
    if not source["traceparent"]:
        return span
    from_trace, from_span, _ = context(source["traceparent"])
    topic, partition, offset = place(source)
    tied = [
        it for it in span["links"]
        if it["fields"].get("messaging.destination.name") == topic
        and it["fields"].get("messaging.destination.partition.id") == str(partition)
        and it["fields"].get("messaging.kafka.offset") == offset
    ]
    demand(len(tied) == 1, f"{where}: {len(tied)} links to the record")
    demand((tied[0]["trace"], tied[0]["span"]) == (from_trace, from_span),
           f"{where}: the link is to another context than the record's")
    figures["links"] += 1
    contexts = {(it["trace"], it["span"]) for it in span["links"]}
    if len(contexts) == 1 and len(span["links"]) == said["messaging.batch.message_count"]:
        demand((span["trace"], span["parent"]) == (from_trace, from_span),
               f"{where}: a batch of one context does not go on from it")
        figures["parents"] += 1
    else:
        demand(span["parent"] == "", f"{where}: one of several contexts is the parent")
    return span


def judge(lines, records):
    spans = {}
    for span in lines:
        key = span["trace"], span["span"]
        demand(key not in spans, f"the span {key} was sent twice")
        spans[key] = span
    by_place = {place(it): it for it in records}
    figures = {"spans": len(spans), "links": 0, "parents": 0, "through": 0, "untraced": 0}
    for output in records:
        if output["topic"] != OUTPUT:
            continue
        middle = by_place[came_from(output)[0]]
        source = by_place[came_from(middle)[0]]
        kind = source["kind"]
        if kind == "unsampled":
            demand(not middle["traceparent"], f"{place(source)} is not sampled, its output is")
            demand(not middle["told"]["trace"], f"{place(source)}: {middle['told']}")
            # It brings no decision along any more: the next invocation begins a trace.
            hop(spans, middle, output, "second", figures)
            figures["untraced"] += 1
            continue
        first = hop(spans, source, middle, "first", figures)
        second = hop(spans, middle, output, "second", figures)
        told = middle["told"]
        demand(told["trace"] == middle["traceparent"],
               f"{place(source)}: its function was told {told['trace']}")
        demand(xray(told["xray"]) == (first["trace"], first["span"], "1"),
               f"{place(source)}: its function was told {told['xray']}")
        if kind == "own":
            trace = context(source["traceparent"])[0]
            demand(first["trace"] == second["trace"] == trace, f"{place(source)}: three traces")
            demand(output["tracestate"] == source["tracestate"] != "",
                   f"{place(source)}: the tracestate {output['tracestate']!r} came out")
        figures["through"] += 1
    ids = [it["fields"]["faas.invocation_id"] for it in spans.values()]
    demand(len(set(ids)) == len(ids), "two invocations have one id")
    return figures


def mistakes(spans, records):
    """The same with a mistake, by its name."""
    def of(change, of_spans=True):
        planted = copy.deepcopy(spans if of_spans else records)
        return (change(planted), records) if of_spans else (spans, change(planted))

    def without_last(spans):
        return spans[:-1]

    def other_link(spans):
        span = next(it for it in spans if len(it["links"]) > 1)
        span["links"][0]["span"] = span["links"][1]["span"]
        return spans

    def no_link(spans):
        next(it for it in spans if it["links"])["links"].pop()
        return spans

    def other_parent(spans):
        next(it for it in spans if it["parent"])["parent"] = "ff" * 8
        return spans

    def twice(spans):
        return [*spans, spans[0]]

    def bare(spans):
        del spans[0]["fields"]["faas.coldstart"]
        return spans

    def other_context(records):
        changed = next(it for it in records if it["topic"] == OUTPUT and it["traceparent"])
        changed["traceparent"] = changed["traceparent"][:36] + "ff" * 8 + "-01"
        return records

    def carried_on(records):
        """The record's own context in its output, as if nobody had run it."""
        sources = {place(it): it for it in records}
        changed = next(it for it in records if it["topic"] == MIDDLE and it["kind"] == "own")
        changed["traceparent"] = sources[came_from(changed)[0]]["traceparent"]
        return records

    yield "a span left out", of(without_last)
    yield "a link to another record", of(other_link)
    yield "a link left out", of(no_link)
    yield "another parent", of(other_parent)
    yield "a span sent twice", of(twice)
    yield "an attribute left out", of(bare)
    yield "an output in another span", of(other_context, False)
    yield "an output with its input's context", of(carried_on, False)


def main():
    if sys.argv[1] == "sink":
        return sink(sys.argv[2])
    spans, records = ([json.loads(line) for line in open(path)] for path in sys.argv[2:4])
    if sys.argv[1] == "judge":
        try:
            print(json.dumps(judge(spans, records)))
        except Wrong as wrong:
            print(json.dumps({"wrong": str(wrong)}))
        return
    found, missed = 0, []
    for name, (spans, records) in mistakes(spans, records):
        try:
            judge(spans, records)
            missed.append(name)
        except Wrong:
            found += 1
    print(json.dumps({"found": found, "missed": missed}))


main()
