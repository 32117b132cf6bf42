//! A handler for the Lambda runtime client of Rust, as its own examples have it: one event of either
//! mode, doubled numbers, named failures.

use aws_lambda_events::event::kafka::KafkaEvent;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lambda_runtime::{Diagnostic, Error, LambdaEvent, run, service_fn};
use serde_json::{Value, json};

fn failed(kind: &str, message: impl ToString) -> Diagnostic {
    Diagnostic { error_type: kind.to_owned(), error_message: message.to_string() }
}

fn one(value: &Value, offset: i64) -> Result<Value, Diagnostic> {
    let n = value["n"].as_i64().ok_or_else(|| failed("Shape", value))?;
    if n < 0 {
        return Err(failed("Negative", n));
    }
    if n == 99 {
        std::process::exit(1);
    }
    Ok(json!({ "twice": 2 * n, "offset": offset }))
}

async fn handle(event: LambdaEvent<Value>) -> Result<Value, Diagnostic> {
    let (payload, context) = event.into_parts();
    if payload.get("records").is_none() {
        let client = context.client_context.ok_or_else(|| failed("Shape", "no client context"))?;
        let facts: Value = serde_json::from_str(&client.custom["millrace"])
            .map_err(|error| failed("Shape", error))?;
        return one(&payload, facts["offset"].as_i64().unwrap_or(-1));
    }
    let event: KafkaEvent =
        serde_json::from_value(payload).map_err(|error| failed("Shape", error))?;
    let (mut outputs, mut failures) = (Vec::new(), Vec::new());
    for (partition, records) in event.records {
        for record in records {
            let source = json!({ "partition": partition, "offset": record.offset });
            let bytes = STANDARD.decode(record.value.unwrap_or_default());
            let bytes = bytes.map_err(|error| failed("Shape", error))?;
            let value = serde_json::from_slice(&bytes).map_err(|error| failed("Shape", error))?;
            match one(&value, record.offset) {
                Ok(made) => outputs.push(json!({ "value": made, "source": source })),
                Err(_negative) => failures.push(json!({ "itemIdentifier": source })),
            }
        }
    }
    Ok(json!({ "batchItemFailures": failures, "$outputs": outputs }))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    run(service_fn(handle)).await
}
