"""Runs a Python function: asks the node for batches or single events, calls the handler, answers.

The node's Runtime API is on descriptor 3. A batch is one frame each way, laid out as the crate
`frame` documents it; a single event is JSON, as every Lambda client knows it.
"""

import json
import os
import socket
import sys
import time
from struct import Struct
from types import AsyncGeneratorType, CoroutineType, GeneratorType

BATCH = "application/vnd.millrace.batch.v1"
API = "/2018-06-01/runtime/"
NEXT = (f"GET {API}invocation/next HTTP/1.1\r\nHost: millrace\r\nAccept: {BATCH}\r\n\r\n").encode()
ABSENT, KEEP = 0xFFFFFFFF, 0xFFFFFFFE
NOT_RUN, OK, FAILED = 0, 1, 2
MESSAGE_CHARS_MAX = 1000

REQUEST = Struct("<BBBBHHQIIIIIII")
RECORD = Struct("<qqIIIIIIIIII")
RESPONSE = Struct("<BBHHHQIIIIIIII")
OUTPUT = Struct("<IiIIIIIIIIII")
FAILURE = Struct("<IIIIII")
LENGTH = Struct("<I")
PARTITION = Struct("<i")


class Fault(Exception):
    """A failure with a name of the contract's own."""

    def __init__(self, name, message):
        super().__init__(message)
        self.name = name


# --- the node ------------------------------------------------------------------------------------


class Node:
    """The other end of descriptor 3."""

    def __init__(self):
        self.socket = socket.socket(fileno=3)
        # What the function starts must not speak for it.
        self.socket.set_inheritable(False)
        self.rest = b""

    def send(self, data):
        self.socket.sendall(data)

    def receive(self):
        """One answer: its headers in lower case, and its body."""
        rest = self.rest
        while (end := rest.find(b"\r\n\r\n")) < 0:
            part = self.socket.recv(262144)
            if not part:
                # The node has gone, or has no more use for this process.
                sys.exit(0)
            rest += part
        lines = iter(rest[:end].decode("latin-1").split("\r\n"))
        next(lines)
        headers = {}
        for line in lines:
            name, _, value = line.partition(": ")
            headers[name.lower()] = value
        start, length = end + 4, int(headers.get("content-length", 0))
        body = rest[start : start + length]
        if len(body) < length:
            whole = bytearray(length)
            at = len(body)
            whole[:at] = body
            with memoryview(whole) as view:
                while at < length:
                    got = self.socket.recv_into(view[at:])
                    if not got:
                        sys.exit(0)
                    at += got
            self.rest = b""
            return headers, bytes(whole)
        self.rest = rest[start + length :]
        return headers, body

    def post(self, path, body, content="application/json", error=None):
        """Sends an answer; because of what it accepts, the reply is the next event."""
        named = f"Lambda-Runtime-Function-Error-Type: {error}\r\n" if error else ""
        head = (
            f"POST {API}{path} HTTP/1.1\r\nHost: millrace\r\nAccept: {BATCH}\r\n"
            f"Content-Type: {content}\r\n{named}Content-Length: {len(body)}\r\n\r\n"
        )
        self.send(head.encode("latin-1", "replace") + body)


# --- values --------------------------------------------------------------------------------------

try:
    scan = json.decoder.JSONDecoder().scan_once
except AttributeError:
    scan = None


def decode(text):
    """The value of JSON text. The scanner alone is twice as fast as what is around it."""
    if scan is not None:
        try:
            value, end = scan(text, 0)
            if end == len(text):
                return value
        except StopIteration:
            pass
    return json.loads(text)


def other(value):
    """What JSON has no form for."""
    import decimal

    if isinstance(value, decimal.Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


encode_slowly = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=other).encode


def make_encoder():
    """The encoder in C, made once instead of once a value."""
    make, text = json.encoder.c_make_encoder, json.encoder.encode_basestring
    if make is None:
        return encode_slowly
    text = json.encoder.c_encode_basestring or text
    encoder = make(None, other, text, None, ":", ",", False, False, True)

    def encode(value):
        return "".join(encoder(value, 0))

    try:
        if encode({"a": [1, "\u00e9", None, 1.5, True]}) == '{"a":[1,"\u00e9",null,1.5,true]}':
            return encode
    except Exception:
        pass
    return encode_slowly


encode = make_encoder()


def plain_bytes(value):
    """A value as a topic has it."""
    kind = value.__class__
    if kind is bytes or kind is bytearray or kind is memoryview:
        return bytes(value)
    return encode(value).encode("utf-8", "surrogatepass")


def chosen_bytes(value, what):
    """Text or bytes, in either of their forms."""
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    if isinstance(value, dict) and len(value) == 1 and "$bytes" in value:
        return from_base64(value["$bytes"])
    raise Fault("Millrace.OutputInvalid", f"one of `$outputs` has a {what} that is neither text nor bytes")


def from_base64(text):
    import base64

    try:
        return base64.b64decode(text, validate=True)
    except Exception:
        raise Fault("Millrace.OutputInvalid", "one of `$outputs` has odd `$bytes`") from None


# --- what a handler is told ----------------------------------------------------------------------


class Batch:
    """What is the same for all records of a batch."""

    __slots__ = ("frame", "arena", "partitions", "texts", "request_id", "deadline_ms", "arn", "client", "identity")

    def __init__(self, headers):
        get = headers.get
        self.frame, self.arena, self.partitions, self.texts = b"", 0, (), ("", "", "", "", "")
        self.request_id = get("lambda-runtime-aws-request-id", "")
        self.deadline_ms = int(get("lambda-runtime-deadline-ms", 0))
        self.arn = get("lambda-runtime-invoked-function-arn", "")
        self.client = get("lambda-runtime-client-context")
        self.identity = get("lambda-runtime-cognito-identity")

    def traced(self, xray=None):
        """Says where the batch is in its trace, in both forms; most have none."""
        global is_traced
        trace = self.texts[4]
        if xray is not None:
            parts = dict(it.split("=", 1) for it in xray.split(";") if "=" in it)
            if parts.get("Sampled") == "1":
                trace = "-".join(("00", parts["Root"][2:].replace("-", ""), parts["Parent"], "01"))
                self.texts = (*self.texts[:4], trace)
        elif trace:
            _, root, parent, _ = trace.split("-", 3)
            xray = f"Root=1-{root[:8]}-{root[8:]};Parent={parent};Sampled=1"
        if xray is not None:
            os.environ["_X_AMZN_TRACE_ID"] = xray
            is_traced = True
        elif is_traced:
            del os.environ["_X_AMZN_TRACE_ID"]
            is_traced = False


is_traced = False


class Identity:
    cognito_identity_id = None
    cognito_identity_pool_id = None


class ClientContext:
    def __init__(self, fields):
        self.custom = fields.get("custom")
        self.env = fields.get("env")
        self.client = fields.get("client")


def fact(number):
    return property(lambda self: self._batch.texts[number])


class Context:
    """Lambda's context, and beside it where the record lies."""

    __slots__ = ("_batch", "_entry")

    function_name = os.environ.get("AWS_LAMBDA_FUNCTION_NAME")
    function_version = os.environ.get("AWS_LAMBDA_FUNCTION_VERSION")
    memory_limit_in_mb = os.environ.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE")
    log_group_name = os.environ.get("AWS_LAMBDA_LOG_GROUP_NAME")
    log_stream_name = os.environ.get("AWS_LAMBDA_LOG_STREAM_NAME")

    cluster, function, revision, trigger, trace = map(fact, range(5))

    def __init__(self, batch, entry=None):
        self._batch = batch
        self._entry = entry

    aws_request_id = property(lambda self: self._batch.request_id)
    invoked_function_arn = property(lambda self: self._batch.arn)
    deadline_ms = property(lambda self: self._batch.deadline_ms)
    identity = property(lambda self: Identity())

    @property
    def client_context(self):
        text = self._batch.client
        return ClientContext(json.loads(text)) if text else None

    def get_remaining_time_in_millis(self):
        return max(self._batch.deadline_ms - int(time.time() * 1000), 0)

    def log(self, message):
        sys.stdout.write(str(message))

    def _of(self, number):
        return None if self._entry is None else self._entry[number]

    def _slice(self, start, length):
        if self._entry is None or self._entry[length] == ABSENT:
            return None
        start = self._batch.arena + self._entry[start]
        return self._batch.frame[start : start + self._entry[length]]

    @property
    def topic(self):
        return None if self._entry is None else self._batch.partitions[self._entry[2]][0]

    @property
    def partition(self):
        return None if self._entry is None else self._batch.partitions[self._entry[2]][1]

    offset = property(lambda self: self._of(0))
    timestamp = property(lambda self: self._of(1))
    attempt = property(lambda self: self._of(3))
    key = property(lambda self: self._slice(4, 5))

    @property
    def headers(self):
        """Names and values, in order; values are bytes or None."""
        blob, at, found = self._slice(8, 9) or b"", 0, []
        for _ in range(self._of(10) or 0):
            (size,) = LENGTH.unpack_from(blob, at)
            name = blob[at + 4 : at + 4 + size].decode("utf-8", "replace")
            at += 4 + size
            (size,) = LENGTH.unpack_from(blob, at)
            at += 4
            if size == ABSENT:
                found.append((name, None))
            else:
                found.append((name, blob[at : at + size]))
                at += size
        return found

    @property
    def idempotency_key(self):
        if self._entry is None:
            return None
        return f"{self.cluster}/{self.trigger}/{self.topic}/{self.partition}/{self.offset}"


# --- batches -------------------------------------------------------------------------------------


class Answer:
    """The results of a batch in the making."""

    def __init__(self, batch_id, count):
        self.batch_id = batch_id
        self.ends = bytearray(count)
        self.outputs = []
        self.failures = []
        self.arena = []
        self.size = 0

    def keep(self, data):
        at = self.size
        self.arena.append(data)
        self.size += len(data)
        return at

    def plain(self, source, value):
        data = plain_bytes(value)
        at, length = self.keep(data), len(data)
        self.outputs.append(OUTPUT.pack(source, -1, 0, ABSENT, 0, KEEP, at, length, 0, 0, 0, 0))

    def chosen(self, source, it):
        """One of `$outputs`."""
        bad = "Millrace.OutputInvalid"
        if not isinstance(it, dict):
            raise Fault(bad, "one of `$outputs` is no object")
        for name in it:
            if name not in ("topic", "key", "value", "headers", "partition"):
                raise Fault(bad, f"one of `$outputs` has an unknown field {name!r}")
        if "value" not in it:
            raise Fault(bad, "one of `$outputs` has no `value`")
        topic, key, value, headers = 0, 0, 0, 0
        topic_length = key_length = value_length = ABSENT
        if it.get("topic") is not None:
            if not isinstance(it["topic"], str):
                raise Fault(bad, "one of `$outputs` has a `topic` that is no text")
            data = it["topic"].encode()
            topic, topic_length = self.keep(data), len(data)
        if "key" not in it:
            key_length = KEEP
        elif it["key"] is not None:
            data = chosen_bytes(it["key"], "`key`")
            key, key_length = self.keep(data), len(data)
        if it["value"] is not None:
            data = it["value"]
            if isinstance(data, dict) and len(data) == 1 and "$bytes" in data:
                data = from_base64(data["$bytes"])
            data = plain_bytes(data)
            value, value_length = self.keep(data), len(data)
        partition = it.get("partition")
        if partition is None:
            partition = -1
        elif not isinstance(partition, int) or not 0 <= partition < 2**31:
            raise Fault(bad, "one of `$outputs` has an odd `partition`")
        pairs = it.get("headers") or ()
        if isinstance(pairs, dict):
            pairs = list(pairs.items())
        blob = []
        for name, data in pairs:
            name = name.encode()
            blob += (LENGTH.pack(len(name)), name)
            if data is None:
                blob.append(LENGTH.pack(ABSENT))
            else:
                data = chosen_bytes(data, "header")
                blob += (LENGTH.pack(len(data)), data)
        blob = b"".join(blob)
        headers = self.keep(blob)
        self.outputs.append(
            OUTPUT.pack(
                source, partition, topic, topic_length, key, key_length, value, value_length,
                headers, len(blob), len(pairs), 0,
            )
        )  # fmt: skip

    def given(self, source, value):
        """What a handler returned or yielded."""
        if value is None:
            return
        kind = value.__class__
        if kind is dict and len(value) == 1 and "$outputs" in value:
            if not isinstance(value["$outputs"], (list, tuple)):
                raise Fault("Millrace.OutputInvalid", "`$outputs` is no list")
            for it in value["$outputs"]:
                self.chosen(source, it)
        elif kind is GeneratorType:
            for it in value:
                self.given(source, it)
        elif kind is CoroutineType or hasattr(kind, "__await__"):
            self.given(source, wait_for(value))
        elif kind is AsyncGeneratorType or hasattr(kind, "__anext__"):

            async def drain():
                async for it in value:
                    self.given(source, it)

            wait_for(drain())
        else:
            self.plain(source, value)

    def failed(self, source, name, message):
        name = name.encode("utf-8", "replace")
        message = message[:MESSAGE_CHARS_MAX].encode("utf-8", "replace")
        self.ends[source] = FAILED
        self.failures.append(
            FAILURE.pack(source, self.keep(name), len(name), self.keep(message), len(message), 0)
        )

    def finish(self):
        outputs, failures = b"".join(self.outputs), b"".join(self.failures)
        outputs_at = RESPONSE.size + len(self.ends)
        failures_at = outputs_at + len(outputs)
        arena_at = failures_at + len(failures)
        head = RESPONSE.pack(
            1, 2, FAILURE.size, RESPONSE.size, OUTPUT.size, self.batch_id, len(self.ends),
            len(self.outputs), len(self.failures), RESPONSE.size, outputs_at, failures_at, arena_at,
            arena_at + self.size,
        )  # fmt: skip
        return b"".join((head, self.ends, outputs, failures, *self.arena))


loop = None


async def finish(awaitable):
    return await awaitable


def wait_for(awaitable):
    """The end of something asynchronous, on a loop that stays."""
    global loop
    import asyncio

    if loop is None:
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
    return loop.run_until_complete(finish(awaitable))


def text_at(frame, at):
    (length,) = LENGTH.unpack_from(frame, at)
    return frame[at + 4 : at + 4 + length].decode(), at + 4 + length


def run_batch(handler, headers, frame):
    """Calls the handler record by record; gives the answer's frame."""
    head = REQUEST.unpack_from(frame)
    version, kind, order, _, _, entry_length, batch_id, count, parts, at, table, entries, arena, size = head
    if (version, kind, size) != (1, 1, len(frame)):
        raise ValueError("not a whole batch of version 1")
    batch = Batch(headers)
    texts, at = [], at + 8
    for _ in range(5):
        text, at = text_at(frame, at)
        texts.append(text)
    partitions = []
    for _ in range(parts):
        (number,) = PARTITION.unpack_from(frame, table)
        topic, table = text_at(frame, table + 4)
        partitions.append((topic, number))
    batch.frame, batch.arena, batch.partitions, batch.texts = frame, arena, partitions, texts
    if texts[4] or is_traced:
        batch.traced()
    is_json = headers.get("millrace-decode") == "json"
    answer = Answer(batch_id, count)
    ends, outputs, parts_kept = answer.ends, answer.outputs, answer.arena
    if entry_length == RECORD.size:
        records = RECORD.iter_unpack(memoryview(frame)[entries : entries + count * entry_length])
    else:
        # A newer node's entries are longer.
        records = (RECORD.unpack_from(frame, entries + it * entry_length) for it in range(count))
    held = None
    pack = OUTPUT.pack
    for index, entry in enumerate(records):
        if held is not None and is_held(held, order, batch, entry):
            continue
        if entry[7] == ABSENT:
            value = None
        else:
            start = arena + entry[6]
            value = frame[start : start + entry[7]]
            if is_json:
                try:
                    value = decode(value.decode())
                except (ValueError, RecursionError) as error:
                    # A dead letter at once: it holds nothing back.
                    answer.failed(index, "Millrace.Decode", f"not JSON: {error}")
                    continue
        mark, kept, filled = len(outputs), len(parts_kept), answer.size
        try:
            result = handler(value, Context(batch, entry))
            if result is not None:
                if result.__class__ is dict and (len(result) != 1 or "$outputs" not in result):
                    # By far the most frequent, without a detour.
                    data = encode(result).encode("utf-8", "surrogatepass")
                    length = len(data)
                    parts_kept.append(data)
                    outputs.append(pack(index, -1, 0, ABSENT, 0, KEEP, filled, length, 0, 0, 0, 0))
                    answer.size = filled + length
                else:
                    answer.given(index, result)
            ends[index] = OK
        except Exception as error:
            del outputs[mark:]
            del parts_kept[kept:]
            answer.size = filled
            held = hold(held, order, batch, entry)
            if isinstance(error, Fault):
                answer.failed(index, error.name, str(error))
            else:
                fault = described(error)
                log_error(fault)
                answer.failed(index, fault["errorType"], fault["errorMessage"])
    return answer.finish()


def hold(held, order, batch, entry):
    """What a failed record keeps from running."""
    if order == 0:
        return held
    held = held or set()
    if order == 1:
        key = Context(batch, entry).key
        if key is not None:
            held.add(key)
    else:
        held.add(entry[2])
    return held


def is_held(held, order, batch, entry):
    if order == 1:
        return entry[5] != ABSENT and Context(batch, entry).key in held
    return entry[2] in held


# --- errors and logs -----------------------------------------------------------------------------


def described(error, request_id=None):
    """An error as Lambda's clients describe it."""
    import traceback

    try:
        message = str(error)
    except Exception:
        message = "<no message: str() of the error failed>"
    frames = traceback.extract_tb(error.__traceback__)
    frames = [it for it in frames if it.filename != __file__ and "importlib" not in it.filename]
    fault = {"errorMessage": message, "errorType": error.__class__.__name__}
    if request_id is not None:
        fault["requestId"] = request_id
    fault["stackTrace"] = traceback.format_list(frames)
    return fault


def log_error(fault):
    lines = [f"[ERROR] {fault['errorType']}: {fault['errorMessage']}"]
    if fault.get("stackTrace"):
        lines += ["Traceback (most recent call last):", *fault["stackTrace"]]
    try:
        sys.stdout.write("\r".join(line.rstrip("\n").replace("\n", "\r") for line in lines) + "\n")
        sys.stdout.flush()
    except Exception:
        # A function may have closed its own stdout.
        pass


current = [""]
is_logging_set = False


def set_logging():
    """Gives the root logger Lambda's format, once the function has loaded `logging` at all."""
    global is_logging_set
    is_logging_set = True
    import logging

    class Handler(logging.StreamHandler):
        def filter(self, record):
            record.aws_request_id = current[0]
            return super().filter(record)

    if not logging.root.handlers:
        handler = Handler(sys.stdout)
        layout = "[%(levelname)s]\t%(asctime)s.%(msecs)03dZ\t%(aws_request_id)s\t%(message)s"
        formatter = logging.Formatter(layout, "%Y-%m-%dT%H:%M:%S")
        formatter.converter = time.gmtime
        handler.setFormatter(formatter)
        logging.root.addHandler(handler)


# --- the start -----------------------------------------------------------------------------------


def load(name):
    """The handler that `module.function` names; the module may lie in folders."""
    import importlib

    try:
        module_name, function_name = name.rsplit(".", 1)
    except ValueError as error:
        raise Fault("Runtime.MalformedHandlerName", f"Bad handler '{name}': {error}") from None
    module_name = module_name.replace("/", ".")
    if module_name.split(".")[0] in sys.builtin_module_names:
        text = f"Cannot use built-in module {module_name} as a handler module"
        raise Fault("Runtime.BuiltInModuleConflict", text)
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        text = f"Unable to import module '{module_name}': {error}"
        raise Fault("Runtime.ImportModuleError", text) from error
    except SyntaxError as error:
        text = f"Syntax error in module '{module_name}': {error}"
        fault = Fault("Runtime.UserCodeSyntaxError", text)
        fault.where = f'  File "{error.filename}" Line {error.lineno}\n    {error.text}'
        raise fault from None
    try:
        return getattr(module, function_name)
    except AttributeError:
        text = f"Handler '{function_name}' missing on module '{module_name}'"
        raise Fault("Runtime.HandlerNotFound", text) from None


def start(node):
    try:
        return load(os.environ["_HANDLER"])
    except Exception as error:
        fault = described(error.__cause__ or error)
        if isinstance(error, Fault):
            fault["errorType"], fault["errorMessage"] = error.name, str(error)
            if hasattr(error, "where"):
                fault["stackTrace"] = [error.where]
    log_error(fault)
    body = json.dumps(fault).encode()
    node.post("init/error", body, error=fault["errorType"])
    node.receive()
    sys.exit(1)


def run_one(handler, headers, body, node):
    """A single event, as every Lambda client handles it."""
    batch = Batch(headers)
    batch.traced(headers.get("lambda-runtime-trace-id"))
    path = f"invocation/{batch.request_id}/"
    try:
        event = body
        if headers.get("content-type") == "application/json":
            try:
                event = json.loads(body)
            except ValueError as error:
                raise Fault("Runtime.UnmarshalError", f"Unable to unmarshal input: {error}") from None
        result = handler(event, Context(batch))
        if result.__class__ is CoroutineType:
            result = wait_for(result)
        content = "application/json"
        if isinstance(result, (bytes, bytearray)):
            data, content = bytes(result), "application/unknown"
        else:
            try:
                data = encode_slowly(result).encode("utf-8", "surrogatepass")
            except Exception as error:
                text = f"Unable to marshal response: {error}"
                raise Fault("Runtime.MarshalError", text) from None
    except Exception as error:
        fault = described(error, batch.request_id)
        if isinstance(error, Fault):
            fault["errorType"] = error.name
        log_error(fault)
        data = json.dumps(fault).encode()
        node.post(path + "error", data, error=fault["errorType"])
        return
    node.post(path + "response", data, content)


def main():
    # The function's own modules come first, the bootstrap's folder is nobody's business.
    sys.path[0] = os.environ["LAMBDA_TASK_ROOT"]
    if "" in sys.path:
        sys.path.remove("")
    sys.argv = [""]
    node = Node()
    handler = start(node)
    node.send(NEXT)
    while True:
        if not is_logging_set and "logging" in sys.modules:
            set_logging()
        headers, body = node.receive()
        request_id = headers.get("lambda-runtime-aws-request-id")
        if request_id is None:
            # The answer before was refused.
            node.send(NEXT)
            continue
        current[0] = request_id
        if headers.get("content-type") == BATCH:
            answer = run_batch(handler, headers, body)
            node.post(f"invocation/{request_id}/response", answer, BATCH)
        else:
            run_one(handler, headers, body, node)
