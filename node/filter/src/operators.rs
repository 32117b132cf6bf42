//! The words of a pattern: what stands in the list of a field, read into conditions.

use serde_json::Value;

use crate::compile::kind;
use crate::condition::{Bound, Condition, Network, Number};
use crate::error::{PatternError, Step, UNKNOWN, Way};
use crate::wildcard::Wildcard;

/// What a field can be; a condition that it can never meet is a mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Any,
    Text,
    Number,
}

const OPERATORS: [&str; 9] = [
    "prefix",
    "suffix",
    "equals-ignore-case",
    "wildcard",
    "anything-but",
    "numeric",
    "cidr",
    "exists",
    "exactly",
];

/// Words that event-ruler keeps for itself beside its operators.
const RESERVED: [&str; 15] = [
    "=",
    "<",
    "<=",
    ">",
    ">=",
    "regex",
    "not-wildcard",
    "not-equals-ignore-case",
    "date-after",
    "date-on-or-after",
    "date-before",
    "date-on-or-before",
    "in-date-range",
    "ip-address-in-range",
    "ip-address-not-in-range",
];

/// Whether an object with this key is no list of fields.
pub(crate) fn is_reserved(key: &str) -> bool {
    OPERATORS.contains(&key) || RESERVED.contains(&key)
}

type Read<T> = Result<T, PatternError>;

/// Reads what stands in a field's list; `true` when it is that the field is absent.
pub(crate) fn read(
    value: &Value,
    of: Kind,
    into: &mut Vec<Condition>,
    way: &mut Way,
) -> Read<bool> {
    match value {
        Value::String(text) => {
            fits(Kind::Text, of, way)?;
            into.extend(Condition::texts(text));
        }
        Value::Number(number) => {
            fits(Kind::Number, of, way)?;
            into.push(Condition::Number(Number::of(number)));
        }
        Value::Bool(_) | Value::Null if of != Kind::Any => {
            let message = format!("{} cannot be met here", kind(value));
            return Err(way.wrong(message, expected(of)));
        }
        Value::Bool(it) => into.push(Condition::Bool(*it)),
        Value::Null => into.push(Condition::Null),
        Value::Array(_) => {
            let expected = "a value or an operator: lists of lists have no meaning";
            return Err(way.wrong("a list stands in a list", expected));
        }
        Value::Object(_) => {
            let (word, argument) = only(value, way)?;
            return way.key(word, |way| operator(word, argument, of, into, way));
        }
    }
    Ok(false)
}

const fn expected(of: Kind) -> &'static str {
    match of {
        Kind::Any => "a value or an operator",
        Kind::Text => "a string, or an operator on strings: this field is a text",
        Kind::Number => "a number, or `numeric`: this field is a number",
    }
}

fn fits(asked: Kind, of: Kind, way: &Way) -> Read<()> {
    if of == Kind::Any || asked == of {
        return Ok(());
    }
    let what = if asked == Kind::Text { "a string" } else { "a number" };
    Err(way.wrong(format!("{what} cannot be met here"), expected(of)))
}

/// The only entry of an object.
fn only<'v>(value: &'v Value, way: &Way) -> Read<(&'v str, &'v Value)> {
    let fields = value.as_object().into_iter().flatten();
    let mut fields = fields.map(|(key, value)| (key.as_str(), value));
    match (fields.next(), fields.next()) {
        (Some(one), None) => Ok(one),
        _ => Err(way.wrong("an operator stands alone in its object", "one key")),
    }
}

fn operator(
    word: &str,
    argument: &Value,
    of: Kind,
    into: &mut Vec<Condition>,
    way: &mut Way,
) -> Read<bool> {
    match word {
        "exists" => match argument {
            Value::Bool(true) => into.push(Condition::Exists),
            Value::Bool(false) => return Ok(true),
            other => {
                return Err(way.wrong(format!("{} is no answer", kind(other)), "true or false"));
            }
        },
        "numeric" => {
            fits(Kind::Number, of, way)?;
            into.push(numeric(argument, way)?);
        }
        "anything-but" => into.push(Condition::AnythingBut(anything_but(argument, of, way)?)),
        "prefix" | "suffix" if argument.is_object() => {
            fits(Kind::Text, of, way)?;
            let (inner, argument) = only(argument, way)?;
            if inner != "equals-ignore-case" {
                let message = format!("`{inner}` does not go into `{word}`");
                return Err(way.error(UNKNOWN, message, "a string, or equals-ignore-case"));
            }
            let text = way.key(inner, |way| text(argument, way))?.into();
            let is_prefix = word == "prefix";
            into.push(match is_prefix {
                true => Condition::PrefixFolded(text),
                false => Condition::SuffixFolded(text),
            });
        }
        word if OPERATORS.contains(&word) => {
            fits(Kind::Text, of, way)?;
            into.push(on_text(word, argument, way)?);
        }
        other => {
            let message = format!("`{other}` is no operator");
            return Err(way.error(UNKNOWN, message, format!("one of {}", OPERATORS.join(", "))));
        }
    }
    Ok(false)
}

/// An operator whose argument is a string.
fn on_text(word: &str, argument: &Value, way: &Way) -> Read<Condition> {
    let text = text(argument, way)?;
    Ok(match word {
        "prefix" => Condition::Prefix(text.into()),
        "suffix" => Condition::Suffix(text.into()),
        "equals-ignore-case" => Condition::TextFolded(text.into()),
        "wildcard" => {
            let expected = r"stars with something between them; \* is a star, \\ a backslash";
            let wildcard = Wildcard::parse(text).map_err(|why| way.wrong(why, expected))?;
            Condition::Wildcard(wildcard)
        }
        "cidr" => {
            let expected = "an address and a number of bits, as in 10.0.0.0/8 or 2001:db8::/32";
            let network = Network::parse(text).map_err(|why| way.wrong(why, expected))?;
            Condition::Network(network)
        }
        _ => Condition::Text(text.into()),
    })
}

fn text<'v>(value: &'v Value, way: &Way) -> Read<&'v str> {
    let wrong = || way.wrong(format!("it takes a string, not {}", kind(value)), "a string");
    value.as_str().ok_or_else(wrong)
}

/// What must not hold: values of one kind, or a string operator over one string or several.
fn anything_but(argument: &Value, of: Kind, way: &mut Way) -> Read<Vec<Condition>> {
    if argument.is_object() {
        fits(Kind::Text, of, way)?;
        let (word, argument) = only(argument, way)?;
        if !["prefix", "suffix", "equals-ignore-case", "wildcard"].contains(&word) {
            let message = format!("`{word}` does not go into `anything-but`");
            let expected = "values, or prefix, suffix, equals-ignore-case or wildcard";
            return Err(way.error(UNKNOWN, message, expected));
        }
        return way.key(word, |way| {
            each(argument, way, |value, way| {
                if value.as_str() == Some("") && ["prefix", "suffix"].contains(&word) {
                    let message = format!("every string has the {word} \"\"");
                    return Err(way.wrong(message, "a string with something in it"));
                }
                on_text(word, value, way)
            })
        });
    }
    let mut kinds = [false; 2];
    let all = each(argument, way, |value, way| match value {
        Value::String(text) => {
            kinds[0] = true;
            fits(Kind::Text, of, way).map(|()| Condition::Text(text.as_str().into()))
        }
        Value::Number(number) => {
            kinds[1] = true;
            fits(Kind::Number, of, way).map(|()| Condition::Number(Number::of(number)))
        }
        other => {
            let message =
                format!("`anything-but` takes no {}", kind(other).trim_start_matches("a "));
            Err(way.wrong(message, "strings, or numbers"))
        }
    })?;
    match kinds {
        [true, true] => Err(way.wrong("strings and numbers are mixed", "a list of one kind")),
        _ => Ok(all),
    }
}

/// Reads one value, or each of a list that has some.
fn each(
    argument: &Value,
    way: &mut Way,
    mut read: impl FnMut(&Value, &Way) -> Read<Condition>,
) -> Read<Vec<Condition>> {
    let Value::Array(values) = argument else { return Ok(vec![read(argument, way)?]) };
    if values.is_empty() {
        return Err(way.wrong("the list is empty", "a value or more"));
    }
    let read = |(index, value)| way.at(Step::Index(index), |way| read(value, way));
    values.iter().enumerate().map(read).collect()
}

/// `["=", n]`, `[">", n]`, `[">", n, "<=", m]` and their like.
fn numeric(argument: &Value, way: &mut Way) -> Read<Condition> {
    const EXPECTED: &str =
        "[\"=\", 5], [\">\", 5], or [\">=\", 5, \"<\", 8]: the lower bound first";
    let wrong = |way: &Way, message: &str| way.wrong(message, EXPECTED);
    let Value::Array(terms) = argument else { return Err(wrong(way, "`numeric` takes a list")) };
    let mut bounds = Vec::with_capacity(2);
    for (index, pair) in terms.chunks(2).enumerate() {
        let [Value::String(sign), number] = pair else {
            return Err(way.at(Step::Index(2 * index), |way| wrong(way, "a sign and its number")));
        };
        let Some(number) = number.as_number() else {
            let wrong = |way: &mut Way| wrong(way, "what is compared is no number");
            return Err(way.at(Step::Index(2 * index + 1), wrong));
        };
        bounds.push((sign.as_str(), Number::of(number).double()));
    }
    let bound = |at, sign: &str| Some(Bound { at, included: sign.ends_with('=') });
    match *bounds {
        [("=", at)] => Ok(Condition::Within(bound(at, "="), bound(at, "="))),
        [(sign @ ("<" | "<="), at)] => Ok(Condition::Within(None, bound(at, sign))),
        [(sign @ (">" | ">="), at)] => Ok(Condition::Within(bound(at, sign), None)),
        [(low @ (">" | ">="), least), (high @ ("<" | "<="), most)] => {
            let both = low.ends_with('=') && high.ends_with('=');
            if most < least || least == most && !both {
                return Err(wrong(way, "no number lies between the bounds"));
            }
            Ok(Condition::Within(bound(least, low), bound(most, high)))
        }
        _ => Err(wrong(way, "these signs do not make a range")),
    }
}
