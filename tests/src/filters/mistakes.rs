//! Mistakes that an evaluator could make, planted as changes of what it is given.

use serde_json::{Map, Value, json};

use super::draw::Pair;

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mistake {
    /// Fields of all elements of an array are taken together.
    ElementsMerged,
    /// A bound is part of its range though it is not.
    BoundIncluded,
    /// Absence is taken for presence.
    AbsenceTurned,
    /// Only the first of a list of `anything-but` is looked at.
    FirstOfList,
    /// Only the first alternative is looked at.
    FirstAlternative,
    /// The case is heard.
    CaseHeard,
    /// The first header of a name counts instead of the last.
    FirstHeader,
    /// A wildcard ends at its first star.
    WildcardCut,
    /// A value that is no JSON counts as an empty object.
    AnythingIsJson,
}

impl Mistake {
    pub(super) const ALL: [Self; 9] = [
        Self::ElementsMerged,
        Self::BoundIncluded,
        Self::AbsenceTurned,
        Self::FirstOfList,
        Self::FirstAlternative,
        Self::CaseHeard,
        Self::FirstHeader,
        Self::WildcardCut,
        Self::AnythingIsJson,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::ElementsMerged => "elements_merged",
            Self::BoundIncluded => "bound_included",
            Self::AbsenceTurned => "absence_turned",
            Self::FirstOfList => "first_of_list",
            Self::FirstAlternative => "first_alternative",
            Self::CaseHeard => "case_heard",
            Self::FirstHeader => "first_header",
            Self::WildcardCut => "wildcard_cut",
            Self::AnythingIsJson => "anything_is_json",
        }
    }

    pub(super) fn plant(self, pair: &mut Pair) {
        let tree = pair.event.value.as_ref().map(|it| serde_json::from_slice::<Value>(it));
        match (self, tree) {
            (Self::ElementsMerged, Some(Ok(tree))) => {
                pair.event.value = Some(merged(tree).to_string().into_bytes());
            }
            (Self::AnythingIsJson, Some(Err(_))) => pair.event.value = Some(b"{}".to_vec()),
            (Self::FirstHeader, _) => pair.headers.reverse(),
            _ => pair.patterns.iter_mut().for_each(|pattern| self.change(pattern)),
        }
    }

    /// Changes every operator of a pattern.
    fn change(self, value: &mut Value) {
        match value {
            Value::Object(fields) => {
                fields.values_mut().for_each(|it| self.change(it));
                if self == Self::FirstAlternative
                    && let Some(Value::Array(options)) = fields.get_mut("$or")
                    && 1 < options.len()
                {
                    options[1] = options[0].clone();
                    options.truncate(2);
                }
                if let Some((word, argument)) = fields.iter().next()
                    && let Some(changed) = self.changed(word, argument)
                {
                    *value = changed;
                }
            }
            Value::Array(values) => values.iter_mut().for_each(|it| self.change(it)),
            _ => {}
        }
    }

    fn changed(self, word: &str, argument: &Value) -> Option<Value> {
        match (self, word, argument) {
            (Self::BoundIncluded, "numeric", Value::Array(terms)) => {
                let include = |term: &Value| match term.as_str() {
                    Some("<") => json!("<="),
                    Some(">") => json!(">="),
                    _ => term.clone(),
                };
                let terms: Value = terms.iter().map(include).collect();
                Some(json!({ "numeric": terms }))
            }
            (Self::AbsenceTurned, "exists", Value::Bool(false)) => Some(json!({ "exists": true })),
            (Self::FirstOfList, "anything-but", Value::Array(list)) => {
                Some(json!({ "anything-but": list[0] }))
            }
            (Self::CaseHeard, "equals-ignore-case", Value::String(text)) => {
                Some(json!({ "exactly": text }))
            }
            (Self::WildcardCut, "wildcard", Value::String(text)) => {
                let head = text.split('*').next().unwrap_or_default();
                (!head.is_empty() && !head.ends_with('\\')).then(|| json!({ "prefix": head }))
            }
            _ => None,
        }
    }
}

/// The same without choices: every array of objects as one object of all their fields.
fn merged(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            Value::Object(fields.into_iter().map(|(key, it)| (key, merged(it))).collect())
        }
        Value::Array(elements) => {
            let elements: Vec<Value> = elements.into_iter().map(merged).collect();
            if elements.is_empty() || !elements.iter().all(Value::is_object) {
                return Value::Array(elements);
            }
            let mut all = Map::new();
            elements
                .into_iter()
                .for_each(|it| all.extend(it.as_object().cloned().unwrap_or_default()));
            Value::Object(all)
        }
        plain => plain,
    }
}
