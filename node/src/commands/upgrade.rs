//! `millrace upgrade`: what a cluster writes, which of its nodes read more, and the step after which
//! no older build takes part.

use std::time::Duration;

use gateway::api::{UpgradeMember, UpgradeStatus};
use serde_json::json;

use super::error::CommandError;
use super::program::program;
use crate::cli::Globals;
use crate::client::Client;
use crate::output::{self, Format, Paint, Rows};

/// It may wait for an election.
const PATIENCE: Duration = Duration::from_secs(30);

/// Shows how far the nodes of a cluster are upgraded, and ends an upgrade.
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "\
Examples:
  millrace upgrade status
  millrace upgrade finish")]
pub enum UpgradeCommand {
    /// Show the format that the cluster writes, and what each node's build reads.
    #[command(after_help = "\
Examples:
  millrace upgrade status
  millrace upgrade status -o json     `held_up_by` is empty when `finish` can be run")]
    Status,
    /// Let the cluster write the newest format of this node's build.
    ///
    /// Refused while a node does not read it. From then on no build takes part that does not: until
    /// then every node can go back to the build before.
    #[command(after_help = "\
Examples:
  millrace upgrade finish")]
    Finish,
}

/// Carries it out.
///
/// # Errors
///
/// `E0441` when a node does not read the format, `E0570` without a quorum.
pub fn run(command: &UpgradeCommand, globals: &Globals) -> Result<(), CommandError> {
    let client = Client::connect(globals)?;
    let status: UpgradeStatus = match command {
        UpgradeCommand::Status => client.get("/v1/upgrade")?,
        UpgradeCommand::Finish => client
            .post("/v1/upgrade:finish", &json!({}), PATIENCE)
            .map_err(|refused| refused.error)?,
    };
    if globals.output == Format::Json {
        return output::print_json(&status);
    }
    match command {
        UpgradeCommand::Status => {
            output::print(&render(&status, Paint::new(globals.colour_on_stdout())))
        }
        UpgradeCommand::Finish => {
            output::print(&format!("{} writes format {}\n", status.cluster, status.format))
        }
    }
}

fn render(status: &UpgradeStatus, paint: Paint) -> String {
    let mut text = format!("{} writes format {}\n", status.cluster, status.format);
    if !status.members.is_empty() {
        let mut rows = Rows::new(&[">ID", "NAME", "VERSION", "READS"]);
        for it in &status.members {
            let version = if it.version.is_empty() { "-" } else { &it.version };
            let row = vec![it.id.to_string(), it.name.clone(), version.to_owned(), reads(it)];
            rows.push(row);
        }
        text.push_str(&rows.render(paint));
    }
    let next = if status.newest <= status.format {
        "next: nothing, the upgrade is finished".to_owned()
    } else if status.held_up_by.is_empty() {
        format!("next: {} upgrade finish     format {}, for good", program(), status.newest)
    } else {
        format!("next: upgrade {}", status.held_up_by.join(", "))
    };
    text.push_str(&next);
    text.push('\n');
    text
}

fn reads(member: &UpgradeMember) -> String {
    match (member.oldest, member.newest) {
        (Some(oldest), Some(newest)) if oldest == newest => format!("format {newest}"),
        (Some(oldest), Some(newest)) => format!("formats {oldest} to {newest}"),
        _ => "not known yet".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u64, newest: Option<u8>) -> UpgradeMember {
        let (name, version) = (format!("edge-{id}"), "0.1.0".to_owned());
        UpgradeMember { id, name, version, oldest: newest.map(|_| 1), newest }
    }

    #[test]
    fn the_next_step_follows_from_what_members_read() {
        let mut status = UpgradeStatus {
            api: 1,
            cluster: "mill".to_owned(),
            format: 1,
            oldest: 1,
            newest: 2,
            members: vec![member(1, Some(2)), member(2, Some(1)), member(3, None)],
            held_up_by: vec!["edge-2".to_owned(), "edge-3".to_owned()],
            ..UpgradeStatus::default()
        };
        assert_eq!(
            render(&status, Paint::new(false)),
            "\
mill writes format 1
ID  NAME    VERSION  READS
 1  edge-1  0.1.0    formats 1 to 2
 2  edge-2  0.1.0    format 1
 3  edge-3  0.1.0    not known yet
next: upgrade edge-2, edge-3
"
        );
        status.held_up_by.clear();
        let text = render(&status, Paint::new(false));
        assert!(text.contains("upgrade finish     format 2, for good"), "{text}");
        status.format = 2;
        let text = render(&status, Paint::new(false));
        assert!(text.ends_with("next: nothing, the upgrade is finished\n"), "{text}");
    }
}
