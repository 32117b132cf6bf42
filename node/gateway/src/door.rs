//! What every request passes before a route sees it: the Host must be this machine, a browser's
//! Origin is refused, heads and paths are plain and small, and `/v1` wants the token.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest as _, Sha256};

use crate::codes;
use crate::problem::Refusal;
use crate::routes::App;
use crate::{apps, backup};

/// Names and values of all headers.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// Path and query.
const URL_BYTES_MAX: usize = 8 << 10;
/// A request with its body and its wait.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// One that sends a package, or that compiles and starts functions.
const LONG_REQUEST_TIMEOUT: Duration = Duration::from_secs(600);

/// The token's hash. Hashes are compared, in constant time: what is compared does not depend on
/// what was guessed.
pub(crate) struct Token([u8; 32]);

impl Token {
    pub(crate) fn new(token: &str) -> Self {
        Self(Sha256::digest(token.as_bytes()).into())
    }

    fn is(&self, presented: &str) -> bool {
        let presented: [u8; 32] = Sha256::digest(presented.as_bytes()).into();
        let difference = self
            .0
            .iter()
            .zip(presented)
            .fold(0, |difference, (ours, theirs)| difference | (ours ^ theirs));
        std::hint::black_box(difference) == 0
    }
}

/// The middleware.
pub(crate) async fn pass(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    if let Err(refusal) = check(&app, &request) {
        return refusal.into_response();
    }
    let patience =
        match apps::is_long(request.uri().path()) || backup::is_long(request.uri().path()) {
            true => LONG_REQUEST_TIMEOUT,
            false => REQUEST_TIMEOUT,
        };
    match tokio::time::timeout(patience, next.run(request)).await {
        Ok(response) => response,
        Err(_late) => Refusal::new(
            StatusCode::REQUEST_TIMEOUT,
            codes::TIMEOUT,
            format!("not done within {} s", patience.as_secs()),
        )
        .into_response(),
    }
}

fn check(app: &App, request: &Request) -> Result<(), Refusal> {
    let headers = request.headers();
    check_size(request)?;
    check_host(request)?;
    if headers.contains_key(header::ORIGIN) {
        let detail = "requests from web pages are refused";
        return Err(Refusal::new(StatusCode::FORBIDDEN, codes::FOREIGN, detail));
    }
    if headers.contains_key(header::TRANSFER_ENCODING)
        && headers.contains_key(header::CONTENT_LENGTH)
    {
        return Err(Refusal::bad("Content-Length together with Transfer-Encoding"));
    }
    check_path(request.uri().path())?;
    if is_open(request.uri().path()) || is_known(app, headers) {
        return Ok(());
    }
    let detail = match headers.contains_key(header::AUTHORIZATION) {
        true => "the token is not this node's",
        false => "no token: send `Authorization: Bearer TOKEN`",
    };
    Err(Refusal::new(StatusCode::UNAUTHORIZED, codes::UNAUTHORISED, detail)
        .hint("the token stands in the node's file in the state directory; `millrace status` finds it")
        .header(header::WWW_AUTHENTICATE, "Bearer realm=\"millrace\""))
}

fn check_size(request: &Request) -> Result<(), Refusal> {
    let uri = request.uri();
    let url = uri.path_and_query().map_or(0, |it| it.as_str().len());
    if URL_BYTES_MAX < url {
        let detail = format!("the path has {url} bytes, the limit is {URL_BYTES_MAX}");
        return Err(Refusal::new(StatusCode::URI_TOO_LONG, codes::BAD_REQUEST, detail));
    }
    let head: usize =
        request.headers().iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if HEAD_BYTES_MAX < head {
        let detail = format!("the headers have {head} bytes, the limit is {HEAD_BYTES_MAX}");
        let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        return Err(Refusal::new(status, codes::BAD_REQUEST, detail));
    }
    Ok(())
}

/// A page in a browser can make its own name point here, but not make the browser say ours.
fn check_host(request: &Request) -> Result<(), Refusal> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let host = hosts.next().and_then(|host| host.to_str().ok()).unwrap_or_default();
    if hosts.next().is_some() || host.is_empty() {
        return Err(Refusal::bad("one Host header is needed"));
    }
    let authority = request.uri().authority().map(|it| it.as_str());
    if is_loopback_name(host) && authority.is_none_or(is_loopback_name) {
        return Ok(());
    }
    let detail = format!("{} is not a name of this machine", host.escape_default());
    Err(Refusal::new(StatusCode::FORBIDDEN, codes::FOREIGN, detail)
        .hint("use localhost, 127.0.0.1 or [::1]"))
}

fn is_loopback_name(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.parse::<u16>().is_ok() => name,
        _ => host,
    };
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost")
        || address.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// No name here needs an escape, so that nothing can be hidden in one.
fn check_path(path: &str) -> Result<(), Refusal> {
    let dotted = path.split('/').any(|segment| segment == "." || segment == "..");
    if path.contains(['%', '\\']) || path.contains("//") || dotted {
        return Err(Refusal::bad("paths are plain: no escapes, no empty or dot segments"));
    }
    Ok(())
}

/// What may be asked without a token: says nothing of records, and changes nothing.
fn is_open(path: &str) -> bool {
    matches!(path, "/healthz" | "/readyz" | "/metrics")
}

fn is_known(app: &App, headers: &HeaderMap) -> bool {
    let mut presented = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (presented.next(), presented.next()) else { return false };
    let Some((scheme, token)) = value.to_str().ok().and_then(|it| it.split_once(' ')) else {
        return false;
    };
    scheme.eq_ignore_ascii_case("bearer") && app.token.is(token.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_hosts() {
        for host in ["localhost", "LOCALHOST:80", "127.0.0.1", "127.8.0.1:9", "[::1]", "[::1]:8081"]
        {
            assert!(is_loopback_name(host), "{host}");
        }
        for host in [
            "",
            "example.com",
            "localhost.example.com",
            "127.0.0.1.example.com",
            "10.0.0.1:80",
            "[::ffff:10.0.0.1]",
            "2130706433",
            "localhost:",
            "localhost:x",
            "0.0.0.0",
        ] {
            assert!(!is_loopback_name(host), "{host}");
        }
    }

    #[test]
    fn paths_hide_nothing() {
        for path in ["/", "/v1/topics/a.b-c_d", "/v1/topics/a..b", "/v1/topics/t:fetch"] {
            assert!(check_path(path).is_ok(), "{path}");
        }
        for path in
            ["/v1/../x", "/./v1", "//v1", "/v1/%2e%2e/x", "/v1/topics/a%2fb", "/a\\b", "/v1/.."]
        {
            assert!(check_path(path).is_err(), "{path}");
        }
    }

    #[test]
    fn only_the_token_is_the_token() {
        let token = Token::new("mr_0123456789");
        assert!(token.is("mr_0123456789"));
        assert!(!token.is("mr_012345678") && !token.is("") && !token.is("MR_0123456789"));
    }
}
