//! Random patterns and events from one seed. Names and values come from small sets, and patterns
//! mostly ask for what the event has, so that a third of the pairs match.

use serde_json::{Map, Value, json};

use super::reference::Event;
use crate::harness::rng::Rng;

const NAMES: [&str; 4] = ["a", "b", "c", "d"];
const TEXTS: [&str; 13] = [
    "",
    "a",
    "ab",
    "abc",
    "Ab",
    "äb",
    "ÄB",
    "a*b",
    "axxb",
    "7",
    "10.0.0.1",
    "10.0.1.1",
    "2001:db8::1",
];
const HEADERS: [&str; 3] = ["source", "ce_type", "x.y"];
const WILDCARDS: [&str; 7] = ["a*", "*b", "a*b", r"a\*b", "*", "10.*.1", "*x*"];

/// A pair, and how its headers are written.
#[derive(Clone, Debug)]
pub(super) struct Pair {
    pub(super) patterns: Vec<Value>,
    pub(super) event: Event,
    /// In their order; a name may be there twice.
    pub(super) headers: Vec<(&'static str, &'static str)>,
}

pub(super) fn pair(seed: u64) -> Pair {
    let mut rng = Rng::new(seed, 9);
    let rng = &mut rng;
    // A name that stands twice outside of arrays leaves open which one absence is judged beside.
    let asks_absence = rng.draw(2) == 0;
    let value = match rng.draw(40) {
        0 => None,
        1 => Some("not json".to_owned()),
        2 => Some(scalar(rng).to_string()),
        3 => Some(array(rng, 2, false).to_string()),
        _ => Some(object(rng, 3, !asks_absence).to_string()),
    };
    let tree: Value =
        value.as_ref().and_then(|it| serde_json::from_str(it).ok()).unwrap_or_default();
    let headers: Vec<_> =
        (0..rng.draw(4)).map(|_| (*pick(rng, &HEADERS), *pick(rng, &TEXTS))).collect();
    let mut beside = vec![
        ("topic".to_owned(), json!(pick(rng, &["readings", "alerts"]))),
        ("partition".to_owned(), json!(rng.draw(3))),
        ("offset".to_owned(), json!(rng.draw(5))),
        ("timestamp".to_owned(), json!(1_700_000_000_000 + rng.draw(3))),
    ];
    if rng.draw(4) != 0 {
        beside.push(("key".to_owned(), json!(pick(rng, &TEXTS))));
    }
    for name in HEADERS {
        if let Some((_, last)) = headers.iter().rfind(|(it, _)| *it == name) {
            beside.push((format!("headers.{name}"), json!(last)));
        }
    }
    let event = Event { value: value.map(String::into_bytes), beside };
    let count = if rng.draw(5) == 0 { 2 } else { 1 };
    let mut draw = Draw { rng, asks_absence, known: known(&tree, &event) };
    let patterns = (0..count).map(|_| draw.pattern()).collect();
    Pair { patterns, event, headers }
}

fn pick<'a, T>(rng: &mut Rng, of: &'a [T]) -> &'a T {
    &of[rng.draw(of.len() as u64) as usize]
}

fn scalar(rng: &mut Rng) -> Value {
    match rng.draw(10) {
        0..=5 => json!(pick(rng, &TEXTS)),
        6..=7 => number(rng),
        8 => json!(rng.draw(2) == 0),
        _ => Value::Null,
    }
}

fn number(rng: &mut Rng) -> Value {
    pick(rng, &[json!(-1), json!(0), json!(1), json!(1.5), json!(7), json!(300), json!(3e2)])
        .clone()
}

fn object(rng: &mut Rng, depth: u64, dots: bool) -> Value {
    let mut fields = Map::new();
    for _ in 0..rng.draw(4) + 1 {
        let mut name = (*pick(rng, &NAMES)).to_owned();
        if dots && rng.draw(12) == 0 {
            name = format!("{name}.{}", pick(rng, &NAMES));
        }
        fields.insert(name, any(rng, depth, dots));
    }
    Value::Object(fields)
}

fn array(rng: &mut Rng, depth: u64, dots: bool) -> Value {
    (0..rng.draw(4)).map(|_| any(rng, depth, dots)).collect()
}

fn any(rng: &mut Rng, depth: u64, dots: bool) -> Value {
    match rng.draw(10) {
        0..=4 if depth != 0 => scalar(rng),
        5..=6 if depth != 0 => object(rng, depth - 1, dots),
        7..=9 if depth != 0 => array(rng, depth - 1, dots),
        _ => scalar(rng),
    }
}

/// What an event has, by name.
fn known(tree: &Value, event: &Event) -> Vec<(String, Value)> {
    fn walk(name: &str, value: &Value, into: &mut Vec<(String, Value)>) {
        match value {
            Value::Object(fields) => {
                fields.iter().for_each(|(key, it)| walk(&format!("{name}.{key}"), it, into));
            }
            Value::Array(elements) => elements.iter().for_each(|it| walk(name, it, into)),
            plain => into.push((name.to_owned(), plain.clone())),
        }
    }
    let mut known = Vec::new();
    walk("value", tree, &mut known);
    known.retain(|(name, _)| name != "value");
    // Fields of the value are what most patterns ask for.
    known.extend(known.clone());
    known.extend(event.beside.clone());
    if let Some(text) = event.value.as_ref() {
        known.push(("value".to_owned(), String::from_utf8_lossy(text).into_owned().into()));
    }
    known
}

struct Draw<'a> {
    rng: &'a mut Rng,
    asks_absence: bool,
    known: Vec<(String, Value)>,
}

impl Draw<'_> {
    fn pattern(&mut self) -> Value {
        let mut taken = Vec::new();
        let mut pattern = self.fields(&mut taken);
        if self.rng.draw(5) == 0 {
            let options = (0..2 + self.rng.draw(2)).map(|_| self.fields(&mut taken.clone()));
            let options: Value = options.collect();
            pattern["$or"] = options;
        }
        pattern
    }

    /// Some fields, none of a name that is taken.
    fn fields(&mut self, taken: &mut Vec<String>) -> Value {
        let mut pattern = json!({});
        for _ in 0..4 {
            let (name, value) = if self.known.is_empty() || self.rng.draw(6) == 0 {
                let path: Vec<&str> =
                    (0..1 + self.rng.draw(3)).map(|_| *pick(self.rng, &NAMES)).collect();
                (format!("value.{}", path.join(".")), scalar(self.rng))
            } else {
                pick(self.rng, &self.known).clone()
            };
            if !taken.contains(&name) {
                let list = self.list(&name, &value);
                put(&mut pattern, &name, list, self.rng.draw(4) == 0);
                taken.push(name);
            }
            if !taken.is_empty() && self.rng.draw(3) == 0 {
                break;
            }
        }
        if pattern == json!({}) {
            // All names were taken: one that nothing has.
            let name = format!("value.z{}", taken.len());
            put(&mut pattern, &name, json!([1]), false);
            taken.push(name);
        }
        pattern
    }

    fn list(&mut self, name: &str, value: &Value) -> Value {
        let one = |it: &mut Self| {
            let about = if it.rng.draw(4) == 0 { it.like(value) } else { value.clone() };
            it.condition(name, &about)
        };
        let mut list = vec![one(self)];
        if self.rng.draw(4) == 0 {
            list.push(one(self));
        }
        list.into()
    }

    /// A value of the same kind.
    fn like(&mut self, value: &Value) -> Value {
        match value {
            Value::String(_) => json!(pick(self.rng, &TEXTS)),
            Value::Number(_) => number(self.rng),
            _ => scalar(self.rng),
        }
    }

    fn condition(&mut self, name: &str, about: &Value) -> Value {
        if self.asks_absence && self.rng.draw(5) == 0 {
            return json!({ "exists": false });
        }
        match about {
            _ if self.rng.draw(10) == 0 => json!({ "exists": true }),
            Value::String(text) => self.on_text(text),
            Value::Number(number) => self.on_number(number.as_f64().unwrap_or(0.0), about),
            plain if name.starts_with("value.") => plain.clone(),
            _ => json!({ "exists": true }),
        }
    }

    fn on_text(&mut self, text: &str) -> Value {
        let middle = text.char_indices().nth(1).map_or(text.len(), |(at, _)| at);
        let (head, tail) = text.split_at(middle);
        let upper = |text: &str| text.to_uppercase();
        let head = if head.is_empty() { "q" } else { head };
        let other = *pick(self.rng, &TEXTS);
        match self.rng.draw(14) {
            0..=3 => json!(text),
            4 => json!({ "prefix": head }),
            5 => json!({ "suffix": tail }),
            6 => json!({ "prefix": { "equals-ignore-case": upper(head) } }),
            7 => json!({ "suffix": { "equals-ignore-case": upper(tail) } }),
            8 => json!({ "equals-ignore-case": upper(text) }),
            9 => json!({ "wildcard": pick(self.rng, &WILDCARDS) }),
            10 => {
                json!({ "cidr": pick(self.rng, &["10.0.0.0/24", "10.0.0.0/15", "2001:db8::/32"]) })
            }
            11 => json!({ "anything-but": [other, pick(self.rng, &TEXTS)] }),
            12 => json!({ "anything-but": other }),
            _ => match self.rng.draw(4) {
                0 => json!({ "anything-but": { "prefix": [head, "10."] } }),
                1 => json!({ "anything-but": { "suffix": ["b", "1"] } }),
                2 => json!({ "anything-but": { "equals-ignore-case": [upper(text), "a"] } }),
                _ => json!({ "anything-but": { "wildcard": [pick(self.rng, &WILDCARDS), "7"] } }),
            },
        }
    }

    fn on_number(&mut self, near: f64, literal: &Value) -> Value {
        match self.rng.draw(8) {
            0..=1 => literal.clone(),
            2 => json!({ "numeric": ["=", near] }),
            3 => json!({ "numeric": [pick(self.rng, &["<", "<="]), near] }),
            4 => json!({ "numeric": [pick(self.rng, &[">", ">="]), near] }),
            5 => json!({ "numeric": [pick(self.rng, &[">", ">="]), near, "<", near + 2.0] }),
            6 => json!({ "anything-but": literal }),
            _ => json!({ "anything-but": [literal, 300] }),
        }
    }
}

/// Puts a list at a name, as objects within objects or under one name with dots; not where the
/// objects of other names are in the way.
fn put(pattern: &mut Value, name: &str, list: Value, dotted: bool) {
    let fields = pattern.as_object_mut().expect("a pattern is an object");
    if dotted || !put_within(fields, name, &list) {
        fields.entry(name.to_owned()).or_insert(list);
    }
}

fn put_within(fields: &mut Map<String, Value>, name: &str, list: &Value) -> bool {
    let Some((first, rest)) = name.split_once('.') else {
        if fields.contains_key(name) {
            return false;
        }
        fields.insert(name.to_owned(), list.clone());
        return true;
    };
    let inner = fields.entry(first.to_owned()).or_insert_with(|| json!({}));
    inner.as_object_mut().is_some_and(|inner| put_within(inner, rest, list))
}
