//! One pass over the bytes of a JSON value: what a filter names is looked at, the rest is skipped,
//! and no tree is built.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::condition::{Number, Scalar};
use crate::worlds::{Elements, World, Worlds};
use crate::{Filter, Names};

/// What the value meets, or `None` when it is no JSON.
pub(crate) fn evaluate(filter: &Filter, value: &[u8]) -> Option<Worlds> {
    let mut json = serde_json::Deserializer::from_slice(value);
    let part = Part { filter, names: &filter.names }.deserialize(&mut json).ok()?;
    json.end().ok()?;
    Some(match part {
        Found::Plain(world) => Worlds::one(world),
        Found::Parts(worlds) => worlds,
    })
}

/// What was found at a name.
enum Found {
    /// By a value without parts.
    Plain(World),
    Parts(Worlds),
}

/// A value at a name of the filter.
#[derive(Clone, Copy)]
struct Part<'f> {
    filter: &'f Filter,
    names: &'f Names,
}

impl Part<'_> {
    #[inline]
    fn plain<E>(self, value: Scalar<'_>) -> Result<Found, E> {
        Ok(Found::Plain(self.filter.meets(&self.names.here, value)))
    }
}

impl<'de> DeserializeSeed<'de> for Part<'_> {
    type Value = Found;

    #[inline]
    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Found, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Part<'_> {
    type Value = Found;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, it: bool) -> Result<Found, E> {
        self.plain(Scalar::Bool(it))
    }

    fn visit_i64<E>(self, it: i64) -> Result<Found, E> {
        self.plain(Scalar::Number(Number::Whole(it.into())))
    }

    fn visit_u64<E>(self, it: u64) -> Result<Found, E> {
        self.plain(Scalar::Number(Number::Whole(it.into())))
    }

    fn visit_f64<E>(self, it: f64) -> Result<Found, E> {
        self.plain(Scalar::Number(Number::Double(it)))
    }

    fn visit_str<E>(self, it: &str) -> Result<Found, E> {
        self.plain(Scalar::Text(it))
    }

    fn visit_unit<E>(self) -> Result<Found, E> {
        self.plain(Scalar::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Found, A::Error> {
        let mut found = Elements::default();
        while let Some(element) = elements.next_element_seed(self)? {
            match element {
                Found::Plain(world) => found.add_plain(world),
                Found::Parts(part) => found.add_part(&part),
            }
        }
        Ok(Found::Parts(found.finish(&self.filter.before)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Found, A::Error> {
        let mut found = Worlds::default();
        while let Some(names) = fields.next_key_seed(Key(self.names))? {
            let Some(names) = names else {
                fields.next_value::<IgnoredAny>()?;
                continue;
            };
            match fields.next_value_seed(Part { names, ..self })? {
                Found::Plain(world) => found.join(Worlds::one(world)),
                Found::Parts(part) => found.join(part),
            }
        }
        Ok(Found::Parts(found))
    }
}

/// The key of a field: the names below it, if the filter has any.
struct Key<'f>(&'f Names);

impl<'de, 'f> DeserializeSeed<'de> for Key<'f> {
    type Value = Option<&'f Names>;

    #[inline]
    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_str(self)
    }
}

impl<'f> Visitor<'_> for Key<'f> {
    type Value = Option<&'f Names>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    #[inline]
    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        Ok(self.0.below(key))
    }
}
