//! A pure core: takes out of what a node answers whatever a function or a record may have put there.

use serde_json::{Value, json};

/// What stands for a text that is left out.
fn left_out(text: &str) -> Value {
    Value::from(format!("[left out: {} bytes]", text.len()))
}

/// Leaves out the accounts of failures, wherever they stand: they are the functions' own, but for
/// those of triggers that do not go on, which are ours.
pub(super) fn answer(value: &mut Value) {
    match value {
        Value::Array(all) => all.iter_mut().for_each(answer),
        Value::Object(fields) => {
            let subject = fields.get("subject").and_then(Value::as_str);
            let is_of_a_function = subject.is_some_and(|it| it.starts_with("function "));
            for (name, value) in fields.iter_mut() {
                match (name.as_str(), &*value) {
                    ("held_up", _) => {}
                    ("message" | "detail", Value::String(text)) => *value = left_out(text),
                    ("found", Value::String(text)) if is_of_a_function => *value = left_out(text),
                    _ => answer(value),
                }
            }
        }
        _ => {}
    }
}

/// A line for each that functions said, without what it was.
pub(super) fn logs(answer: &Value) -> String {
    let lines = answer["lines"].as_array().into_iter().flatten();
    let line = |it: &Value| {
        let bytes = it["message"].as_str().unwrap_or_default().len();
        let line = json!({
            "at": it["at"],
            "function": it["function"],
            "level": it["level"],
            "invocation": it["invocation"],
            "trace_id": it["trace_id"],
            "bytes": bytes,
        });
        format!("{line}\n")
    };
    lines.map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_of_functions_are_left_out_and_ours_stay() {
        let mut told = json!({
            "last_error": { "code": "ValueError", "message": "secret" },
            "held_up": [{ "code": "E0417", "message": "a topic was made again" }],
            "refused": [{ "code": "E0315", "message": "secret" }],
            "findings": [
                { "subject": "bus", "found": "the node's own", "code": null },
                { "subject": "function a/f", "found": "secret", "code": "E0312" },
                { "subject": "data", "found": "5% free", "code": "E0401" },
            ],
        });
        answer(&mut told);
        let text = told.to_string();
        assert!(!text.contains("secret"), "{text}");
        for kept in ["a topic was made again", "the node's own", "5% free", "ValueError"] {
            assert!(text.contains(kept), "{kept}: {text}");
        }
    }

    #[test]
    fn of_a_line_its_length_is_told() {
        let said = json!({ "lines": [{ "at": "t", "function": "f", "message": "secret" }] });
        let lines = logs(&said);
        assert!(!lines.contains("secret") && lines.contains("\"bytes\":6"), "{lines}");
    }
}
