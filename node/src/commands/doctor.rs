//! `millrace doctor`: what keeps a node from working well, with a remedy for each. It ends with
//! status 1 when something does not work.

use std::path::PathBuf;
use std::time::Duration;

use gateway::api::{API, Examination, Finding, Verdict};

use super::error::{CommandError, exit};
use super::program::program;
use crate::cli::Globals;
use crate::client::Client;
use crate::node::examine_machine;
use crate::output::{self, Format, Paint, printable};

/// Brokers that are away are waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// Examines a running node and the machine under it.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  millrace doctor                            the running node, and its machine; of a cluster all
  millrace doctor --node edge-2              one node of a cluster
  millrace doctor --data /var/lib/millrace   the machine alone, before there is a node
  millrace doctor -o json                    for programs; the status says whether something fails")]
pub struct DoctorArgs {
    /// Examine the machine for a node that would have its data in this folder; no node is asked.
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
}

/// Carries it out.
///
/// # Errors
///
/// When no node answers, and with status 1 when something does not work.
pub fn run(args: &DoctorArgs, globals: &Globals) -> Result<(), CommandError> {
    let examination = match &args.data {
        Some(dir) => Examination { api: API, findings: examine_machine(dir) },
        None => Client::connect_about(globals)?.get_with("/v1/doctor", &[], PATIENCE)?,
    };
    match globals.output {
        Format::Json => output::print_json(&examination)?,
        Format::Table => {
            let paint = Paint::new(globals.colour_on_stdout());
            output::print(&render(&examination.findings, paint, &program()))?;
        }
    }
    match examination.findings.iter().any(|it| it.verdict == Verdict::Fail) {
        true => Err(CommandError::silent(exit::FAILED)),
        false => Ok(()),
    }
}

fn render(findings: &[Finding], paint: Paint, program: &str) -> String {
    let mut out = String::new();
    for it in findings {
        let word = match it.verdict {
            Verdict::Ok => paint.good("ok  "),
            Verdict::Warn => paint.doubtful("warn"),
            Verdict::Fail => paint.bad("fail"),
        };
        let node = it.node.as_ref().map(|it| format!("{it}  ")).unwrap_or_default();
        let mut line = format!("{node}{}  {}", it.subject, it.found);
        if let Some(remedy) = &it.remedy {
            line.push_str(&format!(
                "; fix: {}",
                remedy.replace("millrace ", &format!("{program} "))
            ));
        }
        if let Some(code) = &it.code {
            line.push_str(&format!("  ({program} explain {code})"));
        }
        out.push_str(&format!("{word}  {}\n", printable(&line)));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_says_what_was_found_and_what_to_do() {
        let well =
            Finding { subject: "bus".into(), found: "the node's own".into(), ..Finding::default() };
        let ill = Finding {
            node: None,
            verdict: Verdict::Fail,
            subject: "trigger a/f/f".into(),
            found: "stopped\n".into(),
            remedy: Some("millrace explain E0420".into()),
            code: Some("E0420".into()),
        };
        let expected = "\
ok    bus  the node's own
fail  trigger a/f/f  stopped\\n; fix: m explain E0420  (m explain E0420)
";
        assert_eq!(render(&[well, ill], Paint::default(), "m"), expected);
    }
}
