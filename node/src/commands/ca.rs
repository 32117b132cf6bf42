//! `millrace ca`: the CA that vouches for the nodes of a cluster, and how another takes its place.

use std::time::Duration;

use gateway::api::{CaRole, CaStatus, RotationInfo, RotationStage, RotationWish};
use serde_json::json;

use super::error::{CommandError, exit};
use crate::cli::Globals;
use crate::client::Client;
use crate::output::{self, Format, Paint, printable};

/// An order may wait for an election.
const PATIENCE: Duration = Duration::from_secs(30);

/// Shows and rotates the CA of a cluster.
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "\
Examples:
  millrace ca status
  millrace ca rotate
  millrace ca rotate --finish")]
pub enum CaCommand {
    /// Show whom the cluster trusts, until when, and how far a rotation is.
    #[command(after_help = "\
Examples:
  millrace ca status
  millrace ca status -o json     for programs: `rotation` is null when none is on its way")]
    Status,
    /// Let a new CA take the place of the one there is.
    ///
    /// The nodes do it by themselves: all trust both, then each gets a certificate of the new one,
    /// then both are trusted for a window, then only the new one is. No connection is lost. Each
    /// step waits for every node. Join tokens, and tokens of subscribers, that name the old CA are
    /// good until the window is over.
    #[command(after_help = "\
Examples:
  millrace ca rotate                  begin; both CAs are trusted for a day at the end
  millrace ca rotate --window 30d     subscribers have a month to get new tokens
  millrace ca rotate --finish         the window ends now
  millrace ca rotate --abort          back to the CA that was to go")]
    Rotate(RotateArgs),
}

/// What `millrace ca rotate` takes.
#[derive(Debug, clap::Args)]
pub struct RotateArgs {
    /// How long both are trusted once all nodes have a certificate of the new one: 1h, 30d.
    #[arg(long, default_value = "24h", value_name = "DURATION")]
    pub window: String,
    /// End the window of the rotation that is on its way.
    #[arg(long, conflicts_with_all = ["window", "abort"])]
    pub finish: bool,
    /// Go back to the CA that was to go, by the same steps.
    #[arg(long, conflicts_with = "window")]
    pub abort: bool,
}

/// Carries it out.
///
/// # Errors
///
/// `E0575` on a node that is alone, `E0594` when the cluster refuses, `E0570` without a quorum.
pub fn run(command: &CaCommand, globals: &Globals) -> Result<(), CommandError> {
    let status: CaStatus = match command {
        CaCommand::Status => Client::connect(globals)?.get("/v1/ca")?,
        CaCommand::Rotate(args) => rotate(args, globals)?,
    };
    if globals.output == Format::Json {
        return output::print_json(&status);
    }
    output::print(&render(&status, Paint::new(globals.colour_on_stdout())))
}

fn rotate(args: &RotateArgs, globals: &Globals) -> Result<CaStatus, CommandError> {
    let window = function::parse_duration(&args.window).map_err(|error| {
        let message = format!("`{}` is no time: {error}", args.window.escape_debug());
        CommandError::new(exit::USAGE, "E0594", message).help("such as 1h, 24h or 30d")
    })?;
    let client = Client::connect(globals)?;
    let asked = match (args.finish, args.abort) {
        (true, _) => client.post("/v1/ca:finish", &json!({}), PATIENCE),
        (_, true) => client.post("/v1/ca:abort", &json!({}), PATIENCE),
        _ => {
            let wish = RotationWish { window_s: window.as_secs() };
            client.post("/v1/ca:rotate", &wish, PATIENCE)
        }
    };
    asked.map_err(|refused| refused.error)
}

fn render(status: &CaStatus, paint: Paint) -> String {
    let mut lines = vec![("cluster", status.cluster.clone())];
    for ca in &status.cas {
        let head = match ca.role {
            CaRole::Issues => "CA",
            CaRole::Next => "next CA",
            CaRole::Goes => "old CA",
        };
        let short = ca.fingerprint.get(..16).unwrap_or(&ca.fingerprint);
        let expires = ca.expires.as_deref().unwrap_or("an unknown day");
        lines.push((head, format!("{short}, until {expires}")));
    }
    lines.push((
        "rotation",
        match &status.rotation {
            None => "none is on its way".to_owned(),
            Some(rotation) => told(rotation, paint),
        },
    ));
    for token in &status.outdated_tokens {
        let name = if token.name.is_empty() { "" } else { &format!(" ({})", token.name) };
        let what = match token.works {
            true => {
                paint.doubtful("names the CA that goes: make a new one before the window is over")
            }
            false => paint.bad("names a CA that is gone: nobody follows by it"),
        };
        lines.push(("token", format!("{}{} {what}", token.id, printable(name))));
    }
    lines.iter().map(|(head, text)| format!("{head:<9} {text}\n")).collect()
}

fn told(rotation: &RotationInfo, paint: Paint) -> String {
    let what = match rotation.stage {
        RotationStage::Trusting => "1 of 3, nodes learn to trust the next CA",
        RotationStage::Renewing => "2 of 3, nodes get a certificate of the new CA",
        RotationStage::Waiting => "3 of 3, all nodes have a certificate of the new CA",
    };
    let next = match (&rotation.waits_for[..], &rotation.ends) {
        ([], Some(ends)) => format!("both are trusted until {ends}"),
        ([], None) => "done by all".to_owned(),
        (missing, _) => paint.doubtful(&format!("waits for {}", missing.join(", "))),
    };
    format!("{what}; {next}")
}

#[cfg(test)]
mod tests {
    use gateway::api::{CaInfo, OutdatedToken};

    use super::*;

    #[test]
    fn a_status_says_whom_it_waits_for_and_which_tokens_end() {
        let ca = |digit: &str, role| CaInfo {
            fingerprint: digit.repeat(64),
            role,
            expires: Some("2036-01-02T03:00:00Z".to_owned()),
        };
        let mut status = CaStatus {
            cluster: "mill-00000001".to_owned(),
            cas: vec![ca("a", CaRole::Goes), ca("b", CaRole::Issues)],
            rotation: Some(RotationInfo {
                stage: RotationStage::Renewing,
                waits_for: vec!["edge-2".to_owned(), "edge-3".to_owned()],
                ..RotationInfo::default()
            }),
            outdated_tokens: vec![OutdatedToken {
                id: "00a1b2c3".to_owned(),
                name: "grafana".to_owned(),
                works: true,
            }],
            ..CaStatus::default()
        };
        assert_eq!(
            render(&status, Paint::new(false)),
            "\
cluster   mill-00000001
old CA    aaaaaaaaaaaaaaaa, until 2036-01-02T03:00:00Z
CA        bbbbbbbbbbbbbbbb, until 2036-01-02T03:00:00Z
rotation  2 of 3, nodes get a certificate of the new CA; waits for edge-2, edge-3
token     00a1b2c3 (grafana) names the CA that goes: make a new one before the window is over
"
        );
        let rotation = status.rotation.as_mut().unwrap();
        (rotation.stage, rotation.ends) = (RotationStage::Waiting, Some("9:00".to_owned()));
        rotation.waits_for.clear();
        assert!(render(&status, Paint::new(false)).contains("both are trusted until 9:00"));
        status.rotation = None;
        assert!(render(&status, Paint::new(false)).contains("none is on its way"));
    }
}
