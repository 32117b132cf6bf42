//! What was probably meant: the nearest of the words there are, and words of other tools.

/// The nearest of the candidates, if it is near enough to be what was meant: few letters away, or
/// the same word shortened or drawn out.
pub(super) fn nearest<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let folded = fold(word);
    let distance = |candidate: &&str| strsim::osa_distance(&folded, &fold(candidate));
    let best = candidates.into_iter().min_by_key(distance)?;
    let far = (folded.chars().count().max(best.chars().count()) / 3).max(1);
    let stem = fold(best);
    let is_drawn_out = folded.len().min(stem.len()) >= 3
        && (folded.starts_with(&stem) || stem.starts_with(&folded));
    (distance(&best) <= far || is_drawn_out).then_some(best)
}

/// Spelling apart: case, `_` and `-` are no difference.
fn fold(word: &str) -> String {
    word.chars().filter(|c| !matches!(c, '-' | '_' | ' ')).flat_map(char::to_lowercase).collect()
}

/// Keys of other tools and other places, folded, and what does the same here.
const ALIASES: [(&str, &str); 34] = [
    ("ack", "delivery = \"at-least-once\""),
    ("attempts", "retry = { attempts = 3 }"),
    ("backoff", "retry = { backoff = \"1s..30s\" }"),
    ("batchbytes", "batch = { bytes = \"1MiB\" }"),
    ("batchsize", "batch = { records = 100 }"),
    ("batchwindow", "batch = { window = \"5ms\" }"),
    ("bisect", "retry = { bisect = true }"),
    ("bisectbatchonfunctionerror", "retry = { bisect = true }"),
    ("deadletterqueue", "dead-letter = \"readings.dead\""),
    ("deadlettertopic", "dead-letter = \"readings.dead\""),
    ("dlq", "dead-letter = \"readings.dead\""),
    ("inputs", "topics = [\"readings\"]"),
    ("input", "topics = [\"readings\"]"),
    ("linger", "batch = { window = \"5ms\" }"),
    ("maxage", "retry = { max-age = \"1h\" }"),
    ("maxbatchsize", "batch = { records = 100 }"),
    ("maximumbatchingwindowinseconds", "batch = { window = \"5ms\" }"),
    ("maximumrecordageinseconds", "retry = { max-age = \"1h\" }"),
    ("maximumretryattempts", "retry = { attempts = 3 }"),
    ("maxinstances", "instances = { max = 8 }"),
    ("memorysize", "memory = \"64MiB\""),
    ("mininstances", "instances = { warm = 1 }"),
    ("ondeath", "dead-letter = \"readings.dead\""),
    ("onfailure", "dead-letter = \"readings.dead\""),
    ("outputtopic", "output = { topic = \"alerts\" }"),
    ("produce", "allow = { produce = [\"alerts\"] }"),
    ("provisionedconcurrency", "instances = { warm = 1 }"),
    ("records", "batch = { records = 100 }"),
    ("retries", "retry = { attempts = 3 }"),
    ("retentionbytes", "retention = { bytes = \"1GiB\" }"),
    ("retentionms", "retention = { age = \"7d\" }"),
    ("startingposition", "start = \"earliest\""),
    ("topic", "topics = [\"readings\"]"),
    ("window", "batch = { window = \"5ms\" }"),
];

/// What a key of another tool is here, if the section has the key that does it.
pub(super) fn alias(key: &str, known: &[&str]) -> Option<&'static str> {
    let folded = fold(key);
    let (_, meant) = ALIASES.iter().find(|(alias, _)| *alias == folded)?;
    let (start, _) = meant.split_once(" = ")?;
    known.contains(&start).then_some(meant)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words_are_found_and_far_ones_are_not() {
        let words = ["partitions", "retention", "record-bytes-max"];
        assert_eq!(nearest("partition", words), Some("partitions"));
        assert_eq!(nearest("Retention", words), Some("retention"));
        assert_eq!(nearest("record_bytes_max", words), Some("record-bytes-max"));
        assert_eq!(nearest("colour", words), None);
        assert_eq!(nearest("keyed", ["partition", "key", "none"]), Some("key"));
        assert_eq!(nearest("x", []), None);
    }

    #[test]
    fn a_word_of_another_tool_is_translated_where_it_fits() {
        assert_eq!(alias("batchSize", &["batch"]), Some("batch = { records = 100 }"));
        assert_eq!(alias("batchSize", &["partitions"]), None);
    }
}
