//! The Runtime API as any client sees it, through a `bootstrap` that speaks HTTP itself.

use frame::Order;
use runtime::{FailureKind, Invoke as _};

use super::{Answered, BYTES, Function, Ground, JSON, LAMBDA, PATIENCE, call, call_each};

/// A client in Python's standard library; what it does with an event is in the event.
const CLIENT: &str = r#"#!/usr/bin/env python3
import http.client, json, os, socket, sys, time

host = os.environ["AWS_LAMBDA_RUNTIME_API"]
base = "/2018-06-01/runtime/"
if os.environ.get("SAY") == "init error":
    body = json.dumps({"errorMessage": "not today", "errorType": "Extension.Odd"})
    http.client.HTTPConnection(host).request("POST", base + "init/error", body)
    time.sleep(60)

connection = http.client.HTTPConnection(host)

def ask(method, path, body=None, headers={}):
    connection.request(method, base + path, body, headers)
    answer = connection.getresponse()
    return answer.status, answer.headers, answer.read()

def name(answer):
    return f"{answer[0]} {json.loads(answer[2]).get('errorType', '')}".strip()

seen = []
while True:
    status, headers, body = ask("GET", "invocation/next")
    request = headers["Lambda-Runtime-Aws-Request-Id"]
    place = f"invocation/{request}/"
    try:
        event = json.loads(body)
    except ValueError:
        event = body.decode()
    if event == "facts":
        context = json.loads(json.loads(headers["Lambda-Runtime-Client-Context"])["custom"]["millrace"])
        facts = [status, headers["Content-Type"], 0 < int(headers["Lambda-Runtime-Deadline-Ms"]) / 1000 - time.time() <= 10,
                 headers["Lambda-Runtime-Trace-Id"] == "Root=1-4bf92f35-77b34da6a3ce929d0e0e4736;Parent=00f067aa0ba902b7;Sampled=1", context["offset"], context["idempotencyKey"]]
        ask("POST", place + "response", json.dumps(facts))
    elif event == "wrong id":
        seen = [name(ask("POST", "invocation/00000000-0000-4000-a000-000000000000/response", "1")),
                name(ask("POST", "invocation/x/error", "1"))]
        ask("POST", place + "response", json.dumps(seen))
    elif event == "twice":
        ask("POST", place + "response", '"first"')
        seen = [name(ask("POST", place + "response", '"second"')), name(ask("POST", place + "error", "{}"))]
        last = request
    elif event == "late":
        # About the invocation before, which is over.
        ask("POST", place + "response", json.dumps(seen + [name(ask("POST", f"invocation/{last}/response", "1"))]))
    elif event == "init late":
        ask("POST", place + "response", json.dumps(name(ask("POST", "init/error", "{}"))))
    elif event == "ask again":
        other = http.client.HTTPConnection(host)
        other.request("GET", base + "invocation/next")
        again = other.getresponse()
        same = again.headers["Lambda-Runtime-Aws-Request-Id"] == request and json.loads(again.read()) == event
        ask("POST", place + "response", json.dumps(same))
    elif event == "too large":
        seen = [name(ask("POST", place + "response", b"x" * (7 << 20)))]
    elif event == "largest":
        ask("POST", place + "response", b'"' + b"x" * (6 << 20) + b'"')
    elif event == "error":
        ask("POST", place + "error", json.dumps({"errorMessage": "handled", "errorType": "Odd"}),
            {"Lambda-Runtime-Function-Error-Type": "Unhandled", "Lambda-Runtime-Function-XRay-Error-Cause": "c" * (1 << 20)})
    elif event in ("stream", "stream late error"):
        raw = socket.create_connection(host.split(":"))
        head = f"POST {base}{place}response HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nLambda-Runtime-Function-Response-Mode: streaming\r\n"
        trailer = b""
        if event != "stream":
            head += "Trailer: Lambda-Runtime-Function-Error-Type, Lambda-Runtime-Function-Error-Body\r\n"
            trailer = b"Lambda-Runtime-Function-Error-Type: Late\r\nLambda-Runtime-Function-Error-Body: eyJlcnJvck1lc3NhZ2UiOiJvb3BzIn0=\r\n"
        raw.sendall(head.encode() + b"\r\n2\r\n[1\r\n")
        time.sleep(0.05)
        raw.sendall(b"3\r\n,2]\r\n0\r\n" + trailer + b"\r\n")
        raw.recv(1000)
    elif event == "bad mode":
        ask("POST", place + "response", "1", {"Lambda-Runtime-Function-Response-Mode": "sideways"})
    elif event == "cut":
        raw = socket.create_connection(host.split(":"))
        raw.sendall(f"POST {base}{place}response HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf".encode())
        raw.close()
        time.sleep(60)
    elif event == "slow":
        raw = socket.create_connection(host.split(":"))
        while True:
            raw.sendall(b"P")
            time.sleep(0.1)
    elif event == "exit after":
        ask("POST", place + "response", "1")
        os._exit(1)
    elif event == "exit":
        os._exit(1)
    elif isinstance(event, dict) and "records" in event:
        ask("POST", place + "response", json.dumps(sorted(event["records"])))
    else:
        ask("POST", place + "response", body)
"#;

fn client<'a>(files: &'a [(&'a str, &'a str)]) -> Function<'a> {
    Function::provided(files)
}

const FILES: &[(&str, &str)] = &[("bootstrap", CLIENT)];

/// What one event is answered with: its end, and its output if it has one.
fn one(answered: &Answered) -> (&str, &str) {
    (&answered.ends[0], answered.outputs.first().map_or("", |it| it.split_once(' ').unwrap().1))
}

#[tokio::test]
async fn calls_out_of_place_are_refused_and_harm_nothing() {
    let ground = Ground::new();
    let pool = ground.pool(&client(FILES)).await;
    for (event, expected) in [
        ("facts", "[200, \"application/json\", true, true, 10, \"dev/app/probe/main/in/3/10\"]"),
        ("wrong id", "[\"400 InvalidRequestID\", \"400 InvalidRequestID\"]"),
        ("twice", "\"first\""),
        (
            "late",
            "[\"403 InvalidStateTransition\", \"403 InvalidStateTransition\", \
             \"400 InvalidRequestID\"]",
        ),
        ("init late", "\"403 InvalidStateTransition\""),
        ("ask again", "true"),
        ("stream", "[1,2]"),
    ] {
        let answered = call_each(&pool, &[&format!("\"{event}\"")]).await.unwrap();
        assert_eq!(one(&answered), ("ok", expected), "{event}");
    }
    assert_eq!(pool.stats().started, 1, "one process did all of it");
}

#[tokio::test]
async fn records_go_one_by_one_and_each_has_its_own_end() {
    let ground = Ground::new();
    let pool = ground.pool(&client(FILES)).await;
    let records = [
        (Some("a"), "1"),
        (Some("b"), "\"error\""),
        (Some("a"), "2"),
        (Some("b"), "3"),
        (None, "not json"),
        (None, "\"too large\""),
        (None, "\"stream late error\""),
        (None, "{\"$outputs\":[{\"value\":1,\"topic\":\"t\"},{\"value\":2}]}"),
    ];
    let answered = call(&pool, JSON, Order::Key, PATIENCE, &records).await.unwrap();
    let expected = [
        "ok",
        "Odd: handled",
        "ok",
        "not run",
        "Millrace.Decode: not JSON: expected ident at line 1 column 2",
        "Function.ResponseSizeTooLarge: an answer of more than 6291556 bytes",
        "Late: oops",
        "ok",
    ];
    assert_eq!(answered.ends, expected);
    assert_eq!(answered.outputs, ["0 1", "2 2", "7 1 to t", "7 2"]);
    let answered = call_each(&pool, &["\"largest\""]).await.unwrap();
    assert_eq!(answered.outputs[0].len(), "0 ".len() + 2 + (6 << 20));
    assert_eq!(pool.stats().started, 1, "one process did all of it");
}

#[tokio::test]
async fn what_one_record_does_to_the_process_is_charged_to_it_alone() {
    for (event, expected) in [
        ("exit", "Runtime.ExitError: Runtime exited with error: exit status 1"),
        ("cut", "Runtime.TruncatedResponse: the answer was cut short"),
        ("bad mode", "Runtime.InvalidResponseModeHeader: no response mode sideways"),
        ("slow", "Sandbox.Timedout: "),
    ] {
        let ground = Ground::new();
        let pool = ground.pool(&client(FILES)).await;
        let event = format!("\"{event}\"");
        let records = [(None, "1"), (None, event.as_str()), (None, "2")];
        let limit = std::time::Duration::from_millis(1_500);
        let answered = call(&pool, JSON, Order::None, limit, &records).await.unwrap();
        assert!(answered.ends[1].starts_with(expected), "{event}: {answered:?}");
        assert_eq!((&*answered.ends[0], &*answered.ends[2]), ("ok", "not run"), "{event}");
        assert_eq!(call_each(&pool, &["3"]).await.unwrap().ends, ["ok"], "{event}");
        assert_eq!(pool.stats().started, 2, "{event}");
    }
}

#[tokio::test]
async fn who_ends_after_its_answer_costs_the_next_one_nothing() {
    let ground = Ground::new();
    let pool = ground.pool(&client(FILES)).await;
    for _round in 0..3 {
        let answered = call_each(&pool, &["\"exit after\""]).await.unwrap();
        assert_eq!(one(&answered), ("ok", "1"));
    }
    assert_eq!(pool.stats().started, 3);
}

#[tokio::test]
async fn events_and_bytes_reach_any_client() {
    let ground = Ground::new();
    let pool = ground.pool(&client(FILES)).await;
    let records = [(None, "x"), (None, "y")];
    let answered = call(&pool, LAMBDA, Order::Key, PATIENCE, &records).await.unwrap();
    assert_eq!(answered.ends, ["ok", "ok"]);
    assert_eq!(answered.outputs, ["1 [\"in-3\"]"], "belongs to the batch: to its last record");
    let answered = call(&pool, BYTES, Order::Key, PATIENCE, &[(None, "raw")]).await.unwrap();
    assert_eq!(answered.outputs, ["0 raw"]);
}

#[tokio::test]
async fn an_error_of_the_start_is_told_before_the_process_ends() {
    let ground = Ground::new();
    let function = Function { env: &[("SAY", "init error")], ..client(FILES) };
    let pool = ground.pool(&function).await;
    let failure = pool.try_start().await.unwrap_err();
    assert_eq!((failure.kind, failure.code()), (FailureKind::Start, "Extension.Odd"));
    assert_eq!(failure.message, "not today");
}
