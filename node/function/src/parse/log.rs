//! Where the mistakes of one file are gathered, with the text they are shown in.

use std::cell::{Cell, RefCell};
use std::ops::Range;

use crate::{Diagnostic, Diagnostics, Place, Severity};

/// A value with the place it was written at.
#[derive(Clone, Debug)]
pub(super) struct Spanned<T> {
    pub(super) value: T,
    pub(super) span: Range<usize>,
}

#[derive(Debug)]
pub(super) struct Log<'a> {
    /// The file as the user names it.
    pub(super) file: &'a str,
    /// All of it.
    pub(super) text: &'a str,
    /// Part of the text could not be parsed: what is missing may have stood there.
    pub(super) incomplete: Cell<bool>,
    found: RefCell<Vec<Diagnostic>>,
}

impl<'a> Log<'a> {
    pub(super) fn new(file: &'a str, text: &'a str) -> Self {
        Self { file, text, incomplete: Cell::new(false), found: RefCell::default() }
    }

    /// An error at a place, not reported yet.
    pub(super) fn error(
        &self,
        code: &'static str,
        span: &Range<usize>,
        message: impl Into<String>,
    ) -> Diagnostic {
        let place = Some(Place::at(self.text, span.clone()));
        Diagnostic { place, ..Diagnostic::error(code, self.file, message) }
    }

    /// A doubt at a place, not reported yet.
    pub(super) fn warning(
        &self,
        code: &'static str,
        span: &Range<usize>,
        message: impl Into<String>,
    ) -> Diagnostic {
        Diagnostic { severity: Severity::Warning, ..self.error(code, span, message) }
    }

    pub(super) fn push(&self, one: Diagnostic) {
        self.found.borrow_mut().push(one);
    }

    /// Reports that something is not there, unless it may have stood in what was cut out.
    pub(super) fn push_missing(&self, one: Diagnostic) {
        if !self.incomplete.get() {
            self.push(one);
        }
    }

    /// Everything reported, in the order of the lines.
    pub(super) fn finish(self) -> Diagnostics {
        let mut all = Diagnostics(self.found.into_inner());
        all.sort();
        all
    }
}

impl Diagnostic {
    pub(super) fn note(self, note: impl Into<String>) -> Self {
        Self { note: note.into(), ..self }
    }

    pub(super) fn help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }

    pub(super) fn tried(mut self, tried: impl Into<String>) -> Self {
        self.tried.push(tried.into());
        self
    }

    pub(super) fn suggest(self, meant: Option<impl Into<String>>) -> Self {
        Self { suggestion: meant.map(Into::into), ..self }
    }
}
