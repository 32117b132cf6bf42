//! `millrace token`: tokens of those who follow topics from outside, without a Kafka client.

use std::io::Write as _;
use std::time::Duration;

use gateway::api::{
    MadeSubscriberToken, SubscriberTokenInfo, SubscriberTokenList, SubscriberTokenState,
    SubscriberTokenWish,
};
use serde_json::json;

use super::error::{CommandError, exit};
use super::program::program;
use crate::cli::Globals;
use crate::client::Client;
use crate::output::{self, Format, Paint, Rows, printable};

/// A change may wait for an election.
const PATIENCE: Duration = Duration::from_secs(30);

/// Makes, lists and revokes tokens.
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "\
Examples:
  millrace token create --topic alerts > alerts.token
  millrace token list
  millrace token revoke 00a1b2c3")]
pub enum TokenCommand {
    /// Make a token for who follows topics.
    ///
    /// It is printed once; only its hash is kept. It names the cluster's CA, so that whoever has it
    /// knows a node of this cluster from any other before showing it.
    #[command(after_help = "\
Examples:
  millrace token create --topic alerts > alerts.token
  millrace token create --role subscriber --topic 'alerts*' --topic readings --expires 30d
  millrace token create --topic alerts --name grafana --expires 1h -o json")]
    Create(CreateArgs),
    /// List the tokens that were made, without their secrets.
    #[command(
        visible_alias = "ls",
        after_help = "\
Examples:
  millrace token list
  millrace token list -o json    for programs"
    )]
    List,
    /// End a token for good, and whoever follows by it.
    #[command(after_help = "\
Examples:
  millrace token revoke 00a1b2c3")]
    Revoke(RevokeArgs),
}

/// What a token is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Role {
    /// Follows topics: `millrace consume --live`, or the client crate.
    Subscriber,
}

/// What `millrace token create` takes.
#[derive(Debug, clap::Args)]
pub struct CreateArgs {
    /// What it is for.
    #[arg(long, value_enum, default_value = "subscriber", value_name = "ROLE")]
    pub role: Role,
    /// A topic it is good for, or the start of some with a * behind it; may be given more than once.
    /// Topics that begin with `millrace.` are meant by patterns that do so too.
    #[arg(long = "topic", value_name = "PATTERN", required = true)]
    pub topics: Vec<String>,
    /// How long it is good: 30d, 12h, 90s.
    #[arg(long, default_value = "30d", value_name = "DURATION")]
    pub expires: String,
    /// What it is called in the list.
    #[arg(long, default_value = "", hide_default_value = true, value_name = "NAME")]
    pub name: String,
}

/// Which token.
#[derive(Debug, clap::Args)]
pub struct RevokeArgs {
    /// Its id, as `millrace token list` shows it.
    #[arg(value_name = "ID")]
    pub id: String,
}

/// Carries it out.
///
/// # Errors
///
/// `E0575` on a node that is alone, `E0592` for what cannot be, `E0593` when there is no such token,
/// `E0570` without a quorum.
pub fn run(command: &TokenCommand, globals: &Globals) -> Result<(), CommandError> {
    match command {
        TokenCommand::Create(args) => create(args, globals),
        TokenCommand::List => list(globals),
        TokenCommand::Revoke(args) => revoke(&args.id, globals),
    }
}

fn create(args: &CreateArgs, globals: &Globals) -> Result<(), CommandError> {
    let Role::Subscriber = args.role;
    let expires = function::parse_duration(&args.expires).map_err(|error| {
        let message = format!("`{}` is no time: {error}", args.expires.escape_debug());
        CommandError::new(exit::USAGE, "E0592", message).help("such as 30d, 12h or 90s")
    })?;
    let (name, topics) = (args.name.clone(), args.topics.clone());
    let wish = SubscriberTokenWish { name, topics, expires_s: expires.as_secs() };
    let client = Client::connect(globals)?;
    let made: MadeSubscriberToken =
        client.post("/v1/tokens", &wish, PATIENCE).map_err(|it| it.error)?;
    if globals.output == Format::Json {
        return output::print_json(&made);
    }
    output::print(&format!("{}\n", made.token))?;
    // What is said of it is no part of it: `> alerts.token` holds the token alone.
    let SubscriberTokenInfo { id, topics, expires, .. } = &made.about;
    let address = made.address.as_deref().unwrap_or("ADDRESS");
    let topic = topics.first().map_or("TOPIC", |it| it.as_str()).replace('*', "");
    let mut said = format!("token {id} is good for {} until {expires}\n", topics.join(", "));
    if made.address.is_none() {
        said.push_str("this node lets no subscriber in: `listen` in [subscribers] of its file\n");
    }
    said.push_str(&format!(
        "next: {} consume {topic} --live --node {address} --token-file FILE\n",
        program()
    ));
    Ok(std::io::stderr().write_all(said.as_bytes())?)
}

fn list(globals: &Globals) -> Result<(), CommandError> {
    let list: SubscriberTokenList = Client::connect(globals)?.get("/v1/tokens")?;
    if globals.output == Format::Json {
        return output::print_json(&list);
    }
    output::print(&render(&list, Paint::new(globals.colour_on_stdout())))
}

fn render(list: &SubscriberTokenList, paint: Paint) -> String {
    let mut rows = Rows::new(&["ID", "NAME", "ROLE", "STATE", "EXPIRES", "TOPICS"]);
    for it in &list.tokens {
        let state = match it.state {
            SubscriberTokenState::Good => paint.good("good"),
            SubscriberTokenState::Expired => paint.doubtful("expired"),
            SubscriberTokenState::Revoked => paint.bad("revoked"),
            SubscriberTokenState::Outdated => paint.bad("outdated"),
        };
        let name = if it.name.is_empty() { "-" } else { &it.name };
        rows.push(vec![
            it.id.clone(),
            printable(name).into_owned(),
            it.role.clone(),
            state,
            it.expires.clone(),
            it.topics.join(", "),
        ]);
    }
    rows.render(paint)
}

fn revoke(id: &str, globals: &Globals) -> Result<(), CommandError> {
    let is_id = !id.is_empty() && id.bytes().all(|it| it.is_ascii_hexdigit());
    if !is_id {
        let message = format!("no token {}", id.escape_debug());
        return Err(CommandError::new(exit::NOT_FOUND, "E0593", message)
            .help(format!("`{} token list` lists those there are", program())));
    }
    Client::connect(globals)?.delete(&format!("/v1/tokens/{id}"))?;
    if globals.output == Format::Json {
        return output::print_json(&json!({"revoked": id}));
    }
    output::print(&format!("revoked {id}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_shows_what_is_good_and_for_what() {
        let token = |id: &str, state, topics: &[&str]| SubscriberTokenInfo {
            id: id.to_owned(),
            role: "subscriber".to_owned(),
            topics: topics.iter().map(|it| (*it).to_owned()).collect(),
            state,
            expires: "2013-01-02T03:00:00Z".to_owned(),
            ..SubscriberTokenInfo::default()
        };
        let tokens = vec![
            token("00a1b2c3", SubscriberTokenState::Good, &["alerts*", "readings"]),
            token("7f000001", SubscriberTokenState::Revoked, &["alerts"]),
        ];
        let list = SubscriberTokenList { api: 1, tokens };
        assert_eq!(
            render(&list, Paint::new(false)),
            "\
ID        NAME  ROLE        STATE    EXPIRES               TOPICS
00a1b2c3  -     subscriber  good     2013-01-02T03:00:00Z  alerts*, readings
7f000001  -     subscriber  revoked  2013-01-02T03:00:00Z  alerts
"
        );
    }
}
