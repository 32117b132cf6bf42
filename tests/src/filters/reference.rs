//! A slow evaluator of event patterns, written from the documentation alone and sharing nothing
//! with the one under test: the whole event becomes a list of named values, each with the elements
//! of arrays it lies in, and every way to take one value for each field is tried.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::Value;

/// A value of the event.
#[derive(Clone, Debug)]
struct Field {
    name: String,
    value: Value,
    /// Which element of which array it lies in.
    within: BTreeMap<usize, usize>,
}

/// What is beside the value of a record, by name.
#[derive(Clone, Debug, Default)]
pub(super) struct Event {
    pub(super) value: Option<Vec<u8>>,
    /// `key`, `topic`, `headers.NAME` and so on.
    pub(super) beside: Vec<(String, Value)>,
}

/// Fields of one alternative with their lists, in the order of their names.
type Rule = BTreeMap<String, Vec<Value>>;

/// Whether an event matches one of these patterns.
pub(super) fn matches(patterns: &[Value], event: &Event) -> bool {
    let tree: Option<Value> =
        event.value.as_ref().and_then(|value| serde_json::from_slice(value).ok());
    let plain = |(name, value): &(String, Value)| Field {
        name: name.clone(),
        value: value.clone(),
        within: BTreeMap::new(),
    };
    let mut fields: Vec<Field> = event.beside.iter().map(plain).collect();
    if let Some(text) = event.value.as_ref() {
        let text = String::from_utf8_lossy(text).into_owned().into();
        fields.push(plain(&("value".to_owned(), text)));
    }
    if let Some(tree) = &tree {
        let mut arrays = 0;
        // What the value is as a whole has no field of its own.
        let mut all = Vec::new();
        flatten("value", tree, &BTreeMap::new(), &mut arrays, &mut all);
        fields.extend(all.into_iter().filter(|it| it.name != "value"));
    }
    patterns.iter().any(|pattern| {
        let mut rules = vec![Rule::new()];
        expand(pattern, "", &mut rules);
        rules.iter().any(|rule| {
            let wants_json = rule.keys().any(|name| name.starts_with("value."));
            let rest: Vec<(&String, &Vec<Value>)> = rule.iter().collect();
            (tree.is_some() || !wants_json) && try_all(&rest, &fields, &BTreeMap::new())
        })
    })
}

fn flatten(
    name: &str,
    value: &Value,
    within: &BTreeMap<usize, usize>,
    arrays: &mut usize,
    into: &mut Vec<Field>,
) {
    match value {
        Value::Object(inner) => {
            for (key, value) in inner {
                flatten(&format!("{name}.{key}"), value, within, arrays, into);
            }
        }
        Value::Array(elements) => {
            let array = *arrays;
            *arrays += 1;
            for (index, element) in elements.iter().enumerate() {
                let mut within = within.clone();
                if element.is_object() || element.is_array() {
                    within.insert(array, index);
                }
                flatten(name, element, &within, arrays, into);
            }
        }
        plain => {
            let (name, value) = (name.to_owned(), plain.clone());
            into.push(Field { name, value, within: within.clone() });
        }
    }
}

/// Multiplies a pattern out.
fn expand(pattern: &Value, above: &str, rules: &mut Vec<Rule>) {
    for (key, value) in pattern.as_object().expect("a pattern is an object") {
        let options = value.as_array().filter(|_| key == "$or");
        if let Some(options) = options.filter(|it| 1 < it.len() && it.iter().all(is_fields)) {
            let before = rules.clone();
            rules.clear();
            for option in options {
                let mut own = before.clone();
                expand(option, above, &mut own);
                rules.extend(own);
            }
            continue;
        }
        let name = if above.is_empty() { key.clone() } else { format!("{above}.{key}") };
        match value {
            Value::Object(_) => expand(value, &name, rules),
            Value::Array(list) => {
                rules.iter_mut().for_each(|rule| drop(rule.insert(name.clone(), list.clone())));
            }
            _ => unreachable!("a field has a list"),
        }
    }
}

fn is_fields(option: &Value) -> bool {
    const WORDS: [&str; 8] = [
        "prefix",
        "suffix",
        "equals-ignore-case",
        "wildcard",
        "anything-but",
        "numeric",
        "cidr",
        "exists",
    ];
    option.as_object().is_some_and(|it| !it.keys().any(|key| WORDS.contains(&&**key)))
}

/// Takes a value for the first field, and goes on with the others.
fn try_all(
    rest: &[(&String, &Vec<Value>)],
    fields: &[Field],
    within: &BTreeMap<usize, usize>,
) -> bool {
    let Some(((name, list), rest)) = rest.split_first() else { return true };
    let of_name: Vec<&Field> = fields
        .iter()
        .filter(|it| it.name == **name)
        .filter(|it| {
            it.within.iter().all(|(array, at)| within.get(array).is_none_or(|it| it == at))
        })
        .collect();
    let may_be_absent = list.iter().any(|it| it.get("exists") == Some(&Value::Bool(false)));
    if may_be_absent && of_name.is_empty() && try_all(rest, fields, within) {
        return true;
    }
    of_name.iter().any(|field| {
        let holds = list.iter().any(|condition| holds(condition, &field.value));
        let mut within = within.clone();
        within.extend(field.within.clone());
        holds && try_all(rest, fields, &within)
    })
}

fn holds(condition: &Value, value: &Value) -> bool {
    let Some((word, argument)) = condition.as_object().and_then(|it| it.iter().next()) else {
        return equal(condition, value);
    };
    let text = value.as_str();
    match &**word {
        "exists" => *argument == Value::Bool(true),
        "numeric" => value.as_f64().is_some_and(|number| in_range(argument, number)),
        "cidr" => text.is_some_and(|text| in_network(argument, text)),
        "anything-but" => !listed(argument).any(|one| match one.as_object() {
            None => equal(one, value),
            Some(inner) => inner.iter().any(|(word, texts)| {
                listed(texts).any(|it| text.is_some_and(|text| on_text(word, it, text)))
            }),
        }),
        word => text.is_some_and(|text| on_text(word, argument, text)),
    }
}

fn listed(value: &Value) -> Box<dyn Iterator<Item = &Value> + '_> {
    match value {
        Value::Array(list) => Box::new(list.iter()),
        one => Box::new(std::iter::once(one)),
    }
}

fn equal(wanted: &Value, value: &Value) -> bool {
    match (wanted.as_f64(), value.as_f64()) {
        (Some(one), Some(other)) => one == other,
        _ => wanted == value,
    }
}

fn on_text(word: &str, argument: &Value, text: &str) -> bool {
    let folded = argument.get("equals-ignore-case").map(|it| it.as_str().expect("a string"));
    let lower = |text: &str| text.to_lowercase();
    match (word, folded, argument.as_str()) {
        ("prefix", Some(it), _) => lower(text).starts_with(&lower(it)),
        ("suffix", Some(it), _) => lower(text).ends_with(&lower(it)),
        ("prefix", _, Some(it)) => text.starts_with(it),
        ("suffix", _, Some(it)) => text.ends_with(it),
        ("equals-ignore-case", _, Some(it)) => lower(text) == lower(it),
        ("wildcard", _, Some(it)) => {
            let (pattern, text): (Vec<char>, Vec<char>) =
                (it.chars().collect(), text.chars().collect());
            wild(&pattern, &text)
        }
        _ => unreachable!("no operator on texts: {word} {argument}"),
    }
}

fn wild(pattern: &[char], text: &[char]) -> bool {
    match pattern {
        [] => text.is_empty(),
        ['*', rest @ ..] => (0..=text.len()).any(|skipped| wild(rest, &text[skipped..])),
        ['\\', plain, rest @ ..] | [plain, rest @ ..] => {
            text.first() == Some(plain) && wild(rest, &text[1..])
        }
    }
}

fn in_range(terms: &Value, number: f64) -> bool {
    let terms = terms.as_array().expect("a list");
    terms.chunks(2).all(|term| {
        let bound = term[1].as_f64().expect("a number");
        match term[0].as_str().expect("a sign") {
            "=" => number == bound,
            "<" => number < bound,
            "<=" => number <= bound,
            ">" => number > bound,
            _ => number >= bound,
        }
    })
}

fn in_network(network: &Value, text: &str) -> bool {
    let (base, bits) = network.as_str().and_then(|it| it.split_once('/')).expect("a network");
    let bits: usize = bits.parse().expect("a number of bits");
    let (base, Ok(address)) = (binary(base.parse().expect("an address")), text.parse()) else {
        return false;
    };
    let address = binary(address);
    base.len() == address.len() && base[..bits] == address[..bits]
}

/// An address as zeros and ones.
fn binary(address: IpAddr) -> String {
    let bytes = match address {
        IpAddr::V4(it) => it.octets().to_vec(),
        IpAddr::V6(it) => it.octets().to_vec(),
    };
    bytes.iter().map(|byte| format!("{byte:08b}")).collect()
}
