//! Prints the records of a topic, and remembers where it was: run it again and it goes on there.
//!
//! ```text
//! millrace token create --topic 'alerts*' > alerts.token
//! cargo run -p millrace-client --example follow -- 127.0.0.1:7500 alerts.token alerts alerts.resume
//! ```

use std::error::Error;
use std::io::Write as _;
use std::path::Path;

use millrace_client::{Client, From};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, token, topic, resume] = arguments.as_slice() else {
        return Err("ADDRESS TOKEN-FILE TOPIC RESUME-FILE".into());
    };
    let token = std::fs::read_to_string(token)?.parse()?;
    let from = match std::fs::read_to_string(resume) {
        Ok(text) => From::Resume(text.parse()?),
        Err(_first_time) => From::Earliest,
    };
    let client = Client::new(token, [address.as_str()])?;
    let mut records = client.subscribe(&[topic.as_str()], from).await?;
    let mut out = std::io::stdout();
    loop {
        let record = records.next().await?;
        let value = record.value.as_deref().unwrap_or(b"(none)");
        let place = (record.partition, record.offset);
        writeln!(out, "{}{place:?} {}", record.topic, String::from_utf8_lossy(value))?;
        // Whoever does more than print keeps this in the same transaction as what it did.
        if records.waiting() == 0 {
            keep(resume.as_ref(), &records.resume_token().to_string())?;
        }
    }
}

/// Replaces the file as a whole.
fn keep(path: &Path, text: &str) -> std::io::Result<()> {
    let next = path.with_extension("next");
    std::fs::write(&next, text)?;
    std::fs::rename(next, path)
}
