//! A manifest with ten different mistakes: all ten are shown at once, each with its line.

use std::collections::BTreeSet;

use crate::bad_input::ground::{Ground, is_clear};
use crate::demand;
use crate::harness::command;
use crate::promise::{During, NotShown};

/// A mistake a line, each marked by the code that names it.
const MANIFEST: &str = r#"
[app]
name = "Bad Name"                       # E0208

[topic.readings]
partitions = 0                          # E0211

[topic.alerts]
partitons = 4                           # E0203

[function.tidy]
runtime = "cobol"                       # E0205
handler = "tidy.wasm"
path    = "../outside"                  # E0217
memory  = "12 potatoes"                 # E0210
timeout = 5                             # E0204

[function.tidy.allow]
egress = ["example.com:443"]            # E0207

[[function.tidy.trigger]]
topics = ["readings"]
order  = "keyed"                        # E0205
output = { topic = "readings" }         # E0215
"#;

pub(super) fn ten_mistakes(ground: &Ground) -> Result<(), NotShown> {
    std::fs::write(ground.app.join("millrace.toml"), MANIFEST).during("write the manifest")?;
    let mut serve = ground.serve_command();
    let said = command::run(&mut serve, std::time::Duration::from_secs(10))?;
    demand!(said.status == Some(78), "exit status {:?} instead of 78: {}", said.status, said.all());
    is_clear(&said.stderr)?;
    let mut shown = BTreeSet::new();
    let mut lines = said.stderr.lines();
    while let Some(line) = lines.next() {
        if let Some(code) = line.strip_prefix("error[") {
            let code = code.split(']').next().unwrap_or_default();
            let place = lines.next().unwrap_or_default();
            let number = place.split(':').rev().nth(1).and_then(|it| it.trim().parse().ok());
            let number: usize = number.unwrap_or(0);
            demand!(number != 0, "{line:?} is not followed by its line but by {place:?}");
            shown.insert((number, code.to_owned()));
        }
    }
    let expected: BTreeSet<(usize, String)> = MANIFEST
        .lines()
        .enumerate()
        .filter_map(|(line, text)| Some((line + 1, text.split_once("# E")?.1)))
        .map(|(line, digits)| (line, format!("E{}", digits.trim())))
        .collect();
    demand!(expected.len() == 10, "the case itself has {} mistakes", expected.len());
    demand!(shown == expected, "shown {shown:?}, expected {expected:?}: {}", said.stderr);
    let points = |line: &&str| {
        line.split_once('|').is_some_and(|(_, rest)| rest.trim_start().starts_with('^'))
    };
    let carets = said.stderr.lines().filter(points).count();
    demand!(carets == 10, "{carets} of 10 errors point at their place: {}", said.stderr);
    demand!(said.stderr.contains("`partitions`"), "no suggestion for `partitons`");
    Ok(())
}
