//! `{ wildcard = "rack-*/temp" }`: a star stands for any characters, none too; `\*` is a star and
//! `\\` a backslash.

/// A wildcard, as what stands between its stars. Matching takes time linear in the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wildcard(Vec<Box<str>>);

impl Wildcard {
    /// Reads one.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut part = String::new();
        let mut chars = text.chars();
        let mut after_star = false;
        while let Some(c) = chars.next() {
            match c {
                '*' if after_star => return Err("two stars follow one another".to_owned()),
                '*' => parts.push(std::mem::take(&mut part).into_boxed_str()),
                '\\' => match chars.next() {
                    Some(escaped @ ('*' | '\\')) => part.push(escaped),
                    Some(other) => return Err(format!("`\\{other}` means nothing")),
                    None => return Err("it ends with a lone backslash".to_owned()),
                },
                other => part.push(other),
            }
            after_star = c == '*';
        }
        parts.push(part.into_boxed_str());
        Ok(Self(parts))
    }

    pub(crate) fn matches(&self, text: &str) -> bool {
        let [first, middle @ .., last] = &*self.0 else {
            return text == &*self.0[0];
        };
        let Some(mut rest) = text.strip_prefix(&**first) else { return false };
        for part in middle {
            // The leftmost place leaves the most for those that follow.
            let Some(at) = rest.find(&**part) else { return false };
            rest = &rest[at + part.len()..];
        }
        rest.ends_with(&**last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_stand_for_anything() {
        let cases = [
            ("", "", true),
            ("", "a", false),
            ("a", "a", true),
            ("*", "", true),
            ("*", "anything", true),
            ("a*", "a", true),
            ("a*", "ba", false),
            ("*a", "ba", true),
            ("a*a", "a", false),
            ("a*a", "aa", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("*ab*ab*", "xabab", true),
            ("*ab*ab*", "xabb", false),
            (r"\*", "*", true),
            (r"\*", "a", false),
            (r"a\\*", r"a\b", true),
            ("ä*ö", "äxö", true),
        ];
        for (pattern, text, expected) in cases {
            let wildcard = Wildcard::parse(pattern).unwrap();
            assert_eq!(wildcard.matches(text), expected, "{pattern:?} {text:?}");
        }
    }

    #[test]
    fn what_means_nothing_is_refused() {
        for bad in ["a**", "**", r"\a", r"a\", r"\**\*\"] {
            assert!(Wildcard::parse(bad).is_err(), "{bad:?}");
        }
        assert!(Wildcard::parse(r"\**").is_ok(), "a star, then anything");
    }
}
