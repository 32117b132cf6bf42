//! Python functions on our bootstrap.

use frame::Order;

use super::{BYTES, Function, Ground, JSON, LAMBDA, PATIENCE, call, call_each};

const RETURNS: &str = r#"
import decimal

async def later(value):
    return value

async def several():
    yield 1
    yield await later(2)

def few(value):
    yield value
    yield {"$outputs": [{"value": "chosen", "topic": "other"}]}
    yield None

class Awaitable:
    def __await__(self):
        yield from ()
        return "awaited"

def handler(kind, context):
    return {
        "none": None,
        "object": {"a": 1.5, "é": [True, None]},
        "list": [1, 2],
        "text": "x",
        "false": False,
        "bytes": b"\x01raw",
        "decimal": {"d": decimal.Decimal("2.50"), "i": decimal.Decimal("3")},
        "generator": few("y"),
        "async generator": several(),
        "coroutine": later({"b": 2}),
        "awaitable": Awaitable(),
        "empty": {},
        "outputs": {"$outputs": [
            {"value": {"c": 3}},
            {"value": b"raw", "key": None, "topic": "t", "partition": 2},
            {"value": {"$bytes": "AQ=="}, "key": "k", "headers": {"h": "v", "n": None}},
            {"value": None, "key": {"$bytes": "a2V5"}},
        ]},
        "more than outputs": {"$outputs": [], "x": 1},
    }[kind]
"#;

#[tokio::test]
async fn every_kind_of_value_becomes_what_the_contract_says() {
    let ground = Ground::new();
    let pool = ground.pool(&Function::python(&[("app.py", RETURNS)])).await;
    let cases: &[(&str, &[&str])] = &[
        ("none", &[]),
        ("object", &["0 {\"a\":1.5,\"é\":[true,null]}"]),
        ("list", &["0 [1,2]"]),
        ("text", &["0 \"x\""]),
        ("false", &["0 false"]),
        ("bytes", &["0 \u{1}raw"]),
        ("decimal", &["0 {\"d\":2.5,\"i\":3}"]),
        ("generator", &["0 \"y\"", "0 \"chosen\" to other"]),
        ("async generator", &["0 1", "0 2"]),
        ("coroutine", &["0 {\"b\":2}"]),
        ("awaitable", &["0 \"awaited\""]),
        ("empty", &["0 {}"]),
        (
            "outputs",
            &[
                "0 {\"c\":3}",
                "0 raw to t no key in 2",
                "0 \u{1} key k h=v n=-",
                "0 tombstone key key",
            ],
        ),
        ("more than outputs", &["0 {\"$outputs\":[],\"x\":1}"]),
    ];
    for (kind, expected) in cases {
        let answered = call_each(&pool, &[&format!("\"{kind}\"")]).await.unwrap();
        assert_eq!(answered.ends, ["ok"], "{kind}");
        assert_eq!(answered.outputs, *expected, "{kind}");
    }
}

const FAILS: &str = r#"
def outputs(*all):
    return {"$outputs": list(all)}

def handler(value, context):
    print("ran", context.offset)
    if value == "raise":
        raise ValueError("no good")
    if value == "half":
        def half():
            yield 1
            raise KeyError("gone")
        return half()
    if value == "unencodable":
        return {"x": object()}
    if value == "no value":
        return outputs({"key": "k"})
    if value == "unknown":
        return outputs({"value": 1, "colour": "red"})
    if value == "odd key":
        return outputs({"value": 1}, {"value": 1, "key": 5})
    return value
"#;

#[tokio::test]
async fn what_fails_is_one_record_and_its_outputs_are_none() {
    let ground = Ground::new();
    let pool = ground.pool(&Function::python(&[("app.py", FAILS)])).await;
    let values = [
        "\"raise\"",
        "\"half\"",
        "\"unencodable\"",
        "not json",
        "\"no value\"",
        "\"unknown\"",
        "\"odd key\"",
        "\"fine\"",
        "-",
    ];
    let answered = call_each(&pool, &values).await.unwrap();
    let starts = [
        "ValueError: no good",
        "KeyError: 'gone'",
        "TypeError: Object of type object is not JSON",
        "Millrace.Decode: not JSON",
        "Millrace.OutputInvalid: one of `$outputs` has no `value`",
        "Millrace.OutputInvalid: one of `$outputs` has an unknown field 'colour'",
        "Millrace.OutputInvalid: one of `$outputs` has a `key`",
        "ok",
        "ok",
    ];
    for (end, start) in answered.ends.iter().zip(starts) {
        assert!(end.starts_with(start), "{end} instead of {start}");
    }
    assert_eq!(answered.outputs, ["7 \"fine\""], "a tombstone is None, and settled");
    let log = ground.log();
    assert!(log.iter().any(|line| line == "[ERROR] ValueError: no good"), "{log:?}");
    assert!(log.iter().any(|line| line.contains("line 8, in handler")), "{log:?}");
    assert!(!log.iter().any(|line| line.contains("millrace_bootstrap")), "{log:?}");
}

#[tokio::test]
async fn a_failed_record_holds_back_what_its_order_says() {
    let ground = Ground::new();
    let pool = ground.pool(&Function::python(&[("app.py", FAILS)])).await;
    let records = [
        (Some("a"), "1"),
        (Some("b"), "\"raise\""),
        (Some("a"), "2"),
        (Some("b"), "3"),
        (None, "4"),
    ];
    let failed = "ValueError: no good";
    for (order, expected) in [
        (Order::None, ["ok", failed, "ok", "ok", "ok"]),
        (Order::Key, ["ok", failed, "ok", "not run", "ok"]),
        (Order::Partition, ["ok", failed, "not run", "not run", "not run"]),
    ] {
        let answered = call(&pool, JSON, order, PATIENCE, &records).await.unwrap();
        assert_eq!(answered.ends, expected, "{order:?}");
    }
}

const CONTEXT: &str = r#"
import json, logging, os

logging.getLogger().setLevel("INFO")

def handler(value, context):
    logging.info("said by %s", value)
    facts = [
        context.topic, context.partition, context.offset, context.timestamp, context.attempt,
        context.key.decode(), [(n, v and list(v)) for n, v in context.headers],
        context.idempotency_key, context.function, context.revision, context.trigger,
        context.trace, context.function_name, context.memory_limit_in_mb,
        0 < context.get_remaining_time_in_millis() <= 10000,
        context.invoked_function_arn, context.client_context,
    ]
    env = [os.environ.get(it) for it in ("LIMIT", "_HANDLER", "CARGO_MANIFEST_DIR", "AWS_REGION",
        "_X_AMZN_TRACE_ID")]
    return facts + env + [os.getcwd() == os.environ["LAMBDA_TASK_ROOT"]]
"#;

#[tokio::test]
async fn a_handler_knows_where_its_record_lies_and_nothing_of_the_node() {
    let ground = Ground::new();
    let function = Function { env: &[("LIMIT", "30")], ..Function::python(&[("app.py", CONTEXT)]) };
    let pool = ground.pool(&function).await;
    let answered = call(&pool, JSON, Order::Key, PATIENCE, &[(Some("k"), "5")]).await.unwrap();
    let expected = "0 [\"in\",3,10,1000,2,\"k\",[[\"trace\",[118,220,0]],[\"none\",null]],\
        \"dev/app/probe/main/in/3/10\",\"probe\",\"0123456789ab\",\"app/probe/main\",\
        \"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\",\"probe\",\"256\",true,\
        \"arn:aws:lambda:us-east-1:000000000000:function:probe\",null,\
        \"30\",\"app.handler\",null,\"us-east-1\",\
        \"Root=1-4bf92f35-77b34da6a3ce929d0e0e4736;Parent=00f067aa0ba902b7;Sampled=1\",true]";
    assert_eq!(
        (answered.ends, answered.outputs),
        (vec!["ok".to_owned()], vec![expected.to_owned()])
    );
    let log = ground.log();
    let line = log.iter().find(|line| line.contains("said by 5")).unwrap();
    assert!(line.starts_with("[INFO]\\t") && line.contains("Z\\t"), "{line}");
}

const LAMBDA_EVENT: &str = r#"
import base64, json

def handler(event, context):
    records = event["records"]["in-3"]
    bad = []
    out = []
    for record in records:
        value = base64.b64decode(record["value"]).decode()
        if value == "raise":
            raise RuntimeError("whole")
        name = {"partition": "in-3", "offset": record["offset"]}
        if value == "bad":
            bad.append({"itemIdentifier": name})
        else:
            out.append({"value": value, "source": name})
    return {"batchItemFailures": bad, "$outputs": out}
"#;

#[tokio::test]
async fn a_lambda_handler_gets_the_event_and_answers_for_its_records() {
    let ground = Ground::new();
    // The handler lies in a folder, as `a/b.f` says.
    let function = Function {
        handler: "src/app.handler",
        ..Function::python(&[("src/app.py", LAMBDA_EVENT), ("src/__init__.py", "")])
    };
    let pool = ground.pool(&function).await;
    let records = [(Some("a"), "x"), (Some("b"), "bad"), (Some("b"), "y"), (Some("a"), "z")];
    let answered = call(&pool, LAMBDA, Order::Key, PATIENCE, &records).await.unwrap();
    let reported = "Function.BatchItemFailure: the function reported it in batchItemFailures";
    assert_eq!(answered.ends, ["ok", reported, "not run", "ok"]);
    assert_eq!(answered.outputs, ["0 \"x\"", "3 \"z\""]);
    let failure = call(&pool, LAMBDA, Order::Key, PATIENCE, &[(None, "raise")]).await.unwrap_err();
    assert_eq!((failure.code(), failure.message.as_str()), ("RuntimeError", "whole"));
    assert!(failure.kind.is_charged());
}

#[tokio::test]
async fn values_that_are_not_decoded_are_bytes() {
    let ground = Ground::new();
    let code = "def handler(value, context):\n    return value[::-1]\n";
    let pool = ground.pool(&Function::python(&[("app.py", code)])).await;
    let answered = call(&pool, BYTES, Order::None, PATIENCE, &[(None, "abc")]).await.unwrap();
    assert_eq!(answered.outputs, ["0 cba"]);
}
