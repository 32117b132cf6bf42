//! Who gets in: tokens, hosts, origins, sizes, and how a gateway starts and ends.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use millrace_gateway::{BindError, Gateway, GatewayConfig};
use serde_json::json;

use crate::harness::{Served, TOKEN, config};

const CLOSED: [(&str, &str); 11] = [
    ("GET", "/v1/status"),
    ("GET", "/v1/lag"),
    ("GET", "/v1/topics"),
    ("POST", "/v1/topics"),
    ("GET", "/v1/topics/in"),
    ("DELETE", "/v1/topics/in"),
    ("GET", "/v1/topics/in/records"),
    ("POST", "/v1/topics/in/records"),
    ("POST", "/v1/topics/in:fetch"),
    ("POST", "/v1/node:shutdown"),
    ("GET", "/v1/nothing"),
];

#[test]
fn nothing_of_v1_is_answered_without_the_token() {
    let served = Served::new();
    let tokens = [
        String::new(),
        "authorization: Bearer wrong\r\n".to_owned(),
        "authorization: Bearer \r\n".to_owned(),
        format!("authorization: Basic {TOKEN}\r\n"),
        format!("authorization: Bearer {TOKEN}x\r\n"),
        format!("authorization: Bearer wrong\r\nauthorization: Bearer {TOKEN}\r\n"),
        format!("cookie: token={TOKEN}\r\n"),
    ];
    for (method, path) in CLOSED {
        for token in &tokens {
            let answer = served.raw(
                format!(
                    "{method} {path} HTTP/1.1\r\nhost: localhost\r\n{token}\
                     content-length: 0\r\nconnection: close\r\n\r\n"
                )
                .as_bytes(),
            );
            assert!(answer.starts_with("HTTP/1.1 401 "), "{method} {path} {token}: {answer}");
            assert!(answer.contains("www-authenticate: Bearer"), "{answer}");
            assert!(answer.contains("E0505") && !answer.contains(TOKEN), "{answer}");
        }
    }
    assert!(!served.view.was_asked_to_end.load(Ordering::Relaxed));
    served.get("/v1/topics/in").ok();
}

#[test]
fn health_and_metrics_need_no_token() {
    let served = Served::new();
    for path in ["/healthz", "/readyz", "/metrics"] {
        let answer = served.raw(
            format!("GET {path} HTTP/1.1\r\nhost: 127.0.0.1:1\r\nconnection: close\r\n\r\n")
                .as_bytes(),
        );
        assert!(answer.starts_with("HTTP/1.1 200 "), "{path}: {answer}");
    }
    served.view.is_not_ready.store(true, Ordering::Relaxed);
    let answer = served.get("/readyz");
    assert_eq!((answer.status, answer.text.as_str()), (503, "shards are starting\n"));
    assert_eq!(served.get("/healthz").status, 200);
}

#[test]
fn foreign_hosts_and_pages_of_browsers_are_refused() {
    let served = Served::new();
    for (path, headers) in [
        ("/v1/status", "host: example.com\r\n"),
        ("/healthz", "host: example.com\r\n"),
        ("/metrics", "host: 127.0.0.1.example.com\r\n"),
        ("/v1/status", "host: localhost\r\norigin: http://localhost\r\n"),
        ("/healthz", "host: localhost\r\norigin: null\r\n"),
        ("http://example.com/healthz", "host: localhost\r\n"),
    ] {
        let answer = served.raw(
            format!(
                "GET {path} HTTP/1.1\r\n{headers}authorization: Bearer {TOKEN}\r\n\
                 connection: close\r\n\r\n"
            )
            .as_bytes(),
        );
        assert!(answer.starts_with("HTTP/1.1 403 "), "{path} {headers}: {answer}");
        assert!(answer.contains("E0516"), "{answer}");
    }
}

#[test]
fn heads_that_hide_something_or_are_too_large_are_refused() {
    let served = Served::new();
    let many = (0..101).map(|it| format!("x-{it}: y\r\n")).collect::<String>();
    let long = format!("x: {}\r\n", "y".repeat(17 << 10));
    let path = format!("/v1/{}", "y".repeat(9 << 10));
    for (status, path, headers) in [
        (400, "/v1/topics/..", "host: localhost\r\n"),
        (400, "/v1/%2e%2e/status", "host: localhost\r\n"),
        (400, "/v1/topics/a%2fb", "host: localhost\r\n"),
        (400, "//v1/status", "host: localhost\r\n"),
        (400, "/v1/status", ""),
        (400, "/v1/status", "host: localhost\r\nhost: localhost\r\n"),
        (400, "/v1/status", "host: localhost\r\nx y: z\r\n"),
        (431, "/v1/status", &format!("host: localhost\r\n{many}")),
        (431, "/v1/status", &format!("host: localhost\r\n{long}")),
        (414, &path, "host: localhost\r\n"),
    ] {
        let answer = served.raw(
            format!(
                "GET {path} HTTP/1.1\r\n{headers}authorization: Bearer {TOKEN}\r\n\
                 connection: close\r\n\r\n"
            )
            .as_bytes(),
        );
        let wanted = format!("HTTP/1.1 {status} ");
        let shown: String = headers.chars().take(60).collect();
        assert!(answer.starts_with(&wanted), "{status}, {shown}: {answer}");
    }
}

/// Whatever a proxy in front would have taken the request for, it is one request or none.
#[test]
fn a_request_cannot_hide_in_another() {
    let served = Served::new();
    let hidden = "POST /v1/node:shutdown HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\
        connection: close\r\n\r\n";
    for lengths in [
        "content-length: 5\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: chunked\r\ncontent-length: 5\r\n",
        "content-length: 5\r\ncontent-length: 6\r\n",
        "content-length: +5\r\n",
        "transfer-encoding: chunked, identity\r\n",
    ] {
        let answer = served.raw(
            format!(
                "POST /v1/topics HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {TOKEN}\r\n\
                 {lengths}\r\n0\r\n\r\n{hidden}"
            )
            .as_bytes(),
        );
        assert!(answer.starts_with("HTTP/1.1 400 "), "{lengths}: {answer}");
    }
    assert!(!served.view.was_asked_to_end.load(Ordering::Relaxed));
}

#[test]
fn what_is_not_there_is_a_problem_too() {
    let served = Served::new();
    served.get("/v1/nothing").refused(404, "E0506");
    served.get("/").refused(404, "E0506");
    served.delete("/v1/status").refused(405, "E0506");
    served.post("/v1/topics/in", &json!({})).refused(405, "E0506");
    served.post("/v1/topics", &json!([])).refused(400, "E0513");
    served.post_raw("/v1/topics", "application/json", b"{").refused(400, "E0513");
    served.get("/v1/topics/in/records?limti=1").refused(400, "E0513");
}

#[test]
fn the_node_is_asked_to_end_by_who_has_the_token() {
    let served = Served::new();
    let answer = served.post("/v1/node:shutdown", &json!({}));
    assert_eq!(answer.status, 202);
    assert!(served.view.was_asked_to_end.load(Ordering::Relaxed));
}

#[test]
fn a_gateway_that_cannot_listen_says_why() {
    let served = Served::new();
    let bind = |listen: &str, token: &str| {
        let config = GatewayConfig::new(listen.parse().unwrap(), token);
        let (bus, view) = (served.bus.clone(), served.view.clone());
        served.runtime.block_on(Gateway::bind(config, bus, view, None)).unwrap_err()
    };
    let taken = served.address.to_string();
    let error = bind(&taken, TOKEN);
    assert!(matches!(error, BindError::InUse { .. }), "{error:?}");
    assert_eq!(
        (error.code(), error.to_string()),
        ("E0501", format!("{taken} is in use by another process"))
    );
    let error = bind("0.0.0.0:0", TOKEN);
    assert!(matches!(error, BindError::NotLoopback { .. }) && error.code() == "E0509", "{error:?}");
    let error = bind("127.0.0.1:0", "short");
    assert!(matches!(error, BindError::WeakToken { chars: 5 }), "{error:?}");
    assert!(!format!("{:?}", config()).contains(TOKEN));
}

#[test]
fn a_draining_node_does_not_wait_for_those_who_wait() {
    let served = Served::new();
    let question = json!({"wait_ms": 30_000});
    let waiting = std::thread::scope(|scope| {
        let waits = scope.spawn(|| served.post("/v1/topics/in:fetch", &question));
        served.wait_for_reader(0);
        let stopped_at = Instant::now();
        served.stop.cancel();
        let answer = waits.join().unwrap();
        assert!(stopped_at.elapsed() < Duration::from_secs(5));
        answer
    });
    waiting.refused(503, "E0512");
    assert_eq!(waiting.retry_after.as_deref(), Some("2"));
}
