//! Everything that runs more than one part at once, and the rules of the house.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod journal;
mod tidy;
