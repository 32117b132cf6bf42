//! What `doctor` says of certificates: which end soon, whom a rotation of the CA waits for, and
//! which tokens it ends.

use gateway::Membership as _;
use gateway::api::{CaStatus, Finding, RotationStage, Verdict};

use super::Node;
use super::doctor::{bad, ok};
use super::peers::{Peers, now};

const DAY: u64 = 24 * 3_600;
/// A CA that ends sooner should be replaced, and has to be.
const CA_ENDS: (u64, u64) = (90 * DAY, 14 * DAY);
/// A certificate is renewed when a third of its 30 days is left, within seconds: one that has less
/// was not.
const CERTIFICATE_ENDS: (u64, u64) = (9 * DAY, 2 * DAY);
/// Nodes that are there do their part within seconds.
const ROTATION_SLOW: u64 = 300;

/// What ends when, in words and with a verdict.
fn ends(subject: &str, left: u64, (soon, now): (u64, u64), remedy: &str) -> Finding {
    let found = format!("holds for {} days more", left / DAY);
    match left {
        left if left < now => bad(Verdict::Fail, subject, found, "W0607", remedy),
        left if left < soon => bad(Verdict::Warn, subject, found, "W0607", remedy),
        _ => ok(subject, found),
    }
}

fn rotation(status: &CaStatus, began: u64, now: u64) -> Option<Finding> {
    let rotation = status.rotation.as_ref()?;
    let (subject, missing) = ("rotation of the CA", rotation.waits_for.join(", "));
    if missing.is_empty() {
        let found = match (&rotation.ends, rotation.stage) {
            (Some(ends), RotationStage::Waiting) => format!("both are trusted until {ends}"),
            _ => "goes on".to_owned(),
        };
        return Some(ok(subject, found));
    }
    let found = format!("waits for {missing}, since {}", rotation.began);
    let remedy = "start them, or `millrace node remove` those that are gone for good";
    Some(match ROTATION_SLOW < now.saturating_sub(began) {
        true => bad(Verdict::Warn, subject, found, "W0608", remedy),
        false => ok(subject, found),
    })
}

fn tokens(status: &CaStatus) -> Option<Finding> {
    let named: Vec<&str> = status.outdated_tokens.iter().map(|it| it.id.as_str()).collect();
    if named.is_empty() {
        return None;
    }
    let gone = status.outdated_tokens.iter().filter(|it| !it.works).count();
    let found = format!(
        "{} name a CA that {}: {}",
        named.len(),
        if gone == 0 { "goes" } else { "goes or is gone" },
        named.join(", ")
    );
    let remedy = "millrace token create for each, then `millrace token revoke`";
    Some(bad(Verdict::Warn, "tokens of subscribers", found, "W0609", remedy))
}

fn findings(peers: &Peers) -> Vec<Finding> {
    let now = now();
    let mut findings = Vec::new();
    if let Some(until) = peers.ca_until() {
        let left = until.saturating_sub(now);
        findings.push(ends("cluster's CA", left, CA_ENDS, "millrace ca rotate"));
    }
    let left = peers.certificate_until().saturating_sub(now);
    let remedy = "a node that votes has to be reached: `millrace node list`, and this node's log";
    findings.push(ends("certificate", left, CERTIFICATE_ENDS, remedy));
    let status = peers.authorities();
    findings.extend(rotation(&status, peers.rotation_began().unwrap_or(now), now));
    findings.extend(tokens(&status));
    findings
}

impl Node {
    /// Of a node in a cluster.
    pub(super) fn examine_trust(&self) -> Vec<Finding> {
        self.peers().map(|peers| findings(&peers)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use gateway::api::{OutdatedToken, RotationInfo};

    use super::*;

    #[test]
    fn what_ends_soon_is_said_before_it_ends() {
        let verdict = |days| ends("CA", days * DAY, CA_ENDS, "x").verdict;
        assert_eq!(
            [200, 89, 13, 0].map(verdict),
            [Verdict::Ok, Verdict::Warn, Verdict::Fail, Verdict::Fail]
        );
    }

    #[test]
    fn a_rotation_that_waits_long_and_tokens_that_end_have_a_page() {
        let info = RotationInfo { waits_for: vec!["edge-3".to_owned()], ..RotationInfo::default() };
        let mut status = CaStatus { rotation: Some(info), ..CaStatus::default() };
        assert_eq!(rotation(&status, 100, 200).map(|it| it.verdict), Some(Verdict::Ok));
        let slow = rotation(&status, 100, 500).unwrap();
        assert!(slow.verdict == Verdict::Warn && slow.found.contains("edge-3"), "{slow:?}");
        assert_eq!(tokens(&status), None);
        let token = OutdatedToken { id: "00a1b2c3".to_owned(), ..OutdatedToken::default() };
        status.outdated_tokens = vec![token];
        let found = tokens(&status).unwrap();
        assert!(found.found.contains("00a1b2c3"), "{found:?}");
        for it in [slow, found, ends("CA", DAY, CA_ENDS, "x")] {
            assert!(function::explain(it.code.as_deref().unwrap()).is_some(), "{it:?}");
        }
    }
}
