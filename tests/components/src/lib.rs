//! Components for the tests; each is an example of this crate, so that they share one build.
