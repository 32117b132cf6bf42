//! A part of the promise `conformance`, in a build with TLS: the rules of the bus over an encrypted
//! listener with SCRAM-SHA-512, and what a wrong password leads to.
//! `kafka-conformance ADDRESS AUTHORITY USER PASSWORD DIR` prints how many rules hold.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command talks on its streams")]

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use bus::kafka::{KafkaBus, KafkaConfig};
use millrace_conformance::{KafkaStage, check, positions};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, authority, user, password, dir] = &arguments[..] else {
        eprintln!("usage: kafka-conformance ADDRESS AUTHORITY USER PASSWORD DIR");
        return ExitCode::from(2);
    };
    let dir = Path::new(dir);
    let with = |password: &str| {
        [
            ("security.protocol", "SASL_SSL".to_owned()),
            ("sasl.mechanisms", "SCRAM-SHA-512".to_owned()),
            ("sasl.username", user.clone()),
            ("sasl.password", password.to_owned()),
            ("ssl.ca.location", authority.clone()),
        ]
    };
    let checked = refused(address, &with("another"), &dir.join("refused"))
        .and_then(|()| check(KafkaStage::new(address, &with(password), dir)));
    match checked {
        Ok(rules) => {
            println!("{rules}");
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

/// A wrong password is an error of its own, and soon.
fn refused(address: &str, settings: &[(&str, String)], dir: &Path) -> Result<(), String> {
    let runtime = tokio::runtime::Runtime::new();
    let runtime = runtime.map_err(|error| format!("start a runtime: {error}"))?;
    let positions = positions(dir)?;
    let mut config = KafkaConfig::new(address, "refused");
    for (key, value) in settings {
        config.settings.insert((*key).to_owned(), value.clone());
    }
    config.request_timeout = Duration::from_secs(10);
    match runtime.block_on(KafkaBus::open(config, positions)) {
        Err(bus::Error::Authentication { .. }) => Ok(()),
        other => Err(format!("with a wrong password: {other:?}")),
    }
}
