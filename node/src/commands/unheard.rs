//! What commands say of nodes that did not answer.

use gateway::api::Unheard;

use crate::output::{Paint, printable};

/// A line for each: what it knows is missing in what is shown.
pub(super) fn lines(unheard: &[Unheard], paint: Paint, program: &str) -> String {
    let line = |it: &Unheard| {
        let text = format!("{} does not answer: {}    {program} node list", it.node, it.why);
        format!("{} {}\n", paint.bad("!"), printable(&text))
    };
    unheard.iter().map(line).collect()
}
