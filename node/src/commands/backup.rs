//! `millrace backup` and `millrace restore`: what a cluster has, but for records, as one file, and
//! back from it.

use std::fs::OpenOptions;
use std::io::{self, BufWriter, IsTerminal as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use gateway::api::{Backup, Restore, Restored};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use super::backup_file as file;
use super::error::{CommandError, exit};
use crate::cli::Globals;
use crate::client::Client;
use crate::output::{self, Format, Paint, Rows, bytes, count};

/// Park topics have to be read to their ends, and positions to be set.
const PATIENCE: Duration = Duration::from_secs(570);

/// Where to.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  millrace backup greenhouse.backup
  millrace backup /var/backups/millrace.backup --node edge-1 -o json")]
pub struct BackupArgs {
    /// The file to make; one that is there is left alone.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

/// From where, and how.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  millrace restore greenhouse.backup --dry-run     checks the file, and what is there already
  millrace restore greenhouse.backup
  millrace restore greenhouse.backup --replace     applications that are there become what they were")]
pub struct RestoreArgs {
    /// What `millrace backup` made.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Let applications that are there become what they were, with the positions of then.
    #[arg(long)]
    pub replace: bool,
    /// Change nothing.
    #[arg(long)]
    pub dry_run: bool,
}

/// Makes a backup.
///
/// # Errors
///
/// When the file is there or cannot be written, when no quorum or no bus answers.
pub fn run(args: &BackupArgs, globals: &Globals) -> Result<(), CommandError> {
    let client = Client::connect(globals)?;
    let path = &args.file;
    if path.exists() {
        let message = format!("{} is there already", path.display());
        return Err(CommandError::new(exit::CONFLICT, "E0110", message).help("name another file"));
    }
    let backup: Backup = client.get_with("/v1/backup", &[], PATIENCE)?;
    let packages = backup.packages().len();
    let failed = |error: &io::Error| CommandError::file("write", path, error);
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    // Under its name there is a whole backup or nothing.
    let draft = folder.join(format!(".millrace-backup-{}", std::process::id()));
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft);
    let made = made.map_err(|error| failed(&error))?;
    let bar = progress(2 * packages as u64, "packages");
    let package = |digest: &str| {
        bar.inc(1);
        client.download(&format!("/v1/backup/packages/{digest}"), PATIENCE)
    };
    let written = file::write(BufWriter::new(&made), &backup, package, failed)
        .and_then(|()| made.sync_all().map_err(|error| failed(&error)))
        .and_then(|()| std::fs::hard_link(&draft, path).map_err(|error| failed(&error)));
    drop(std::fs::remove_file(&draft));
    bar.finish_and_clear();
    written?;
    std::fs::File::open(folder).and_then(|it| it.sync_all()).map_err(|error| failed(&error))?;
    let size = made.metadata().map(|it| it.len()).unwrap_or_default();
    let triggers = backup.apps.iter().flat_map(|app| &app.triggers);
    let partitions: Vec<_> = triggers.clone().flat_map(|it| &it.partitions).collect();
    let parked: u64 = partitions.iter().map(|it| it.parked).sum();
    if globals.output == Format::Json {
        return output::print_json(&json!({
            "file": path, "bytes": size, "cluster": backup.cluster, "at": backup.at,
            "apps": backup.apps.iter().map(|it| &it.name).collect::<Vec<_>>(),
            "packages": packages, "triggers": triggers.count(), "partitions": partitions.len(),
            "parked": parked,
        }));
    }
    output::print(&format!(
        "{}  {}: {} applications, {} triggers, {} positions, {} packages\n\
         it has the environments of functions, no records, tokens or keys: keep it as you keep manifests\n",
        path.display(),
        bytes(size),
        count(backup.apps.len() as u64),
        count(triggers.count() as u64),
        count(partitions.len() as u64),
        count(packages as u64),
    ))
}

/// Restores one.
///
/// # Errors
///
/// `E0581` when the file is damaged or no backup, `E0582` when it is of a later version, `E0583`
/// when an application is there.
pub fn restore(args: &RestoreArgs, globals: &Globals) -> Result<(), CommandError> {
    // All of it, before anybody is asked for anything.
    let backup = file::read(&args.file, |_, _| Ok(()))?;
    let client = Client::connect(globals)?;
    let ask = |dry_run| {
        let asked = Restore { backup: backup.clone(), replace: args.replace, dry_run };
        client.post("/v1/backup:restore", &asked, PATIENCE).map_err(|refused| refused.error)
    };
    let looked: Restored = ask(true)?;
    let restored = if args.dry_run {
        looked
    } else {
        let bar = progress(looked.missing.len() as u64, "packages");
        file::read(&args.file, |digest, archive| {
            if looked.missing.iter().any(|it| it == digest) {
                client.put_bytes(&format!("/v1/packages/{digest}"), &archive, PATIENCE)?;
                bar.inc(1);
            }
            Ok(())
        })?;
        bar.set_message("positions");
        let restored = ask(false);
        bar.finish_and_clear();
        restored?
    };
    if globals.output == Format::Json {
        return output::print_json(&restored);
    }
    output::print(&render(&restored, Paint::new(globals.colour_on_stdout())))
}

fn progress(all: u64, message: &'static str) -> ProgressBar {
    let bar = match io::stderr().is_terminal() {
        true => ProgressBar::new(all),
        false => ProgressBar::with_draw_target(Some(all), ProgressDrawTarget::hidden()),
    };
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {human_pos} of {human_len}  {msg}") {
        bar.set_style(style);
    }
    bar.set_message(message);
    bar
}

fn render(restored: &Restored, paint: Paint) -> String {
    let mut rows =
        Rows::new(&["APP", "OUTCOME", ">FUNCTIONS", ">TRIGGERS", ">PAUSED", ">POSITIONS"]);
    for it in &restored.apps {
        let outcome = match (restored.dry_run, it.replaced) {
            (true, false) => "would be new",
            (true, true) => "would be replaced",
            (false, false) => "restored",
            (false, true) => "replaced",
        };
        let numbers = [it.functions, it.triggers, it.paused, it.positions];
        let mut row = vec![it.name.clone(), outcome.to_owned()];
        row.extend(numbers.map(|it| count(it as u64)));
        rows.push(row);
    }
    let mut out = rows.render(paint);
    for it in &restored.elsewhere {
        out.push_str(&format!(
            "! {} goes on in {}[{}] at {}, not at {}: {}\n",
            it.trigger, it.topic, it.partition, it.to, it.next, it.why
        ));
    }
    if restored.dry_run {
        out.push_str("nothing was changed\n");
    }
    out
}
