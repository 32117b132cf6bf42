//! A page for every code that Millrace prints: what it means, and an example of wrong and right.
//! The pages stand in `explain/*.md`, one `# CODE: title` each; a test demands one for each code
//! that stands anywhere in the sources of the workspace.

/// All pages, by area.
const AREAS: [&str; 6] = [
    include_str!("explain/e01.md"),
    include_str!("explain/e02.md"),
    include_str!("explain/e03.md"),
    include_str!("explain/e04.md"),
    include_str!("explain/e05.md"),
    include_str!("explain/w.md"),
];

/// What a code's page is introduced by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodeTitle {
    /// `E0203`.
    pub code: &'static str,
    /// What it means, in a few words.
    pub title: &'static str,
}

/// The page of a code, from its title on. The code may be written in lower case.
#[must_use]
pub fn explain(code: &str) -> Option<&'static str> {
    pages().find(|(title, _)| title.code.eq_ignore_ascii_case(code.trim())).map(|(_, page)| page)
}

/// Every code there is, with its title, errors before warnings, each in order.
#[must_use]
pub fn codes() -> Vec<CodeTitle> {
    pages().map(|(title, _)| title).collect()
}

/// Each page, as `CODE: title`, an empty line, and its text.
fn pages() -> impl Iterator<Item = (CodeTitle, &'static str)> {
    AREAS.into_iter().flat_map(split).filter_map(|page| {
        let (code, title) = page.lines().next()?.split_once(": ")?;
        Some((CodeTitle { code, title }, page))
    })
}

/// The pages of an area.
fn split(area: &'static str) -> impl Iterator<Item = &'static str> {
    let area = area.strip_prefix("# ").unwrap_or(area);
    area.split("\n# ").map(str::trim_end)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use super::*;

    #[test]
    fn pages_have_codes_in_order_and_something_to_say() {
        let codes = codes();
        for pair in codes.windows(2) {
            assert!(pair[0].code < pair[1].code, "{} before {}", pair[0].code, pair[1].code);
        }
        for CodeTitle { code, title } in codes {
            assert!(is_code(code), "{code}");
            let page = explain(code).unwrap();
            assert!(page.starts_with(&format!("{code}: {title}\n")), "{page}");
            assert!(page.len() > title.len() + 60, "{page}");
            assert!(page.lines().all(|line| line.chars().count() <= 100), "{page}");
        }
        assert_eq!(explain(" e0203 "), explain("E0203"));
        assert_eq!(explain("E0999"), None);
        assert_eq!(explain(""), None);
    }

    fn is_code(text: &str) -> bool {
        let mut chars = text.chars();
        matches!(chars.next(), Some('E' | 'W'))
            && chars.next() == Some('0')
            && text.len() == 5
            && chars.all(|c| c.is_ascii_digit())
    }

    /// Codes in quotes in all Rust files below a folder, with the file.
    fn find_codes(dir: &Path, found: &mut BTreeSet<(String, String)>) {
        for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
            let path = entry.path();
            let name = entry.file_name().into_string().unwrap_or_default();
            // Links are not followed: they could lead anywhere, or in circles.
            if entry.file_type().unwrap().is_dir() {
                if name != "target" && !name.starts_with('.') {
                    find_codes(&path, found);
                }
            } else if name.ends_with(".rs") {
                let text = fs::read_to_string(&path).unwrap_or_default();
                for quoted in text.split('"').filter(|part| is_code(part)) {
                    found.insert((quoted.to_owned(), path.display().to_string()));
                }
            }
        }
    }

    #[test]
    fn every_code_of_the_workspace_has_its_page() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let mut found = BTreeSet::new();
        find_codes(&root, &mut found);
        assert!(found.iter().any(|(code, _)| code == "E0203"), "the search finds nothing");
        let is_test = |path: &str| path.ends_with("explain.rs");
        for (code, path) in &found {
            assert!(
                explain(code).is_some() || is_test(path),
                "{code} of {path} has no page in node/function/src/explain"
            );
        }
    }
}
