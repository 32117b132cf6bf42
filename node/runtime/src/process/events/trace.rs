//! A pure core: a trace context in the form that clients of the Runtime API know, X-Ray's.

/// `Root=1-8 digits-24 digits;Parent=16 digits;Sampled=1` of a W3C `traceparent`, which is sampled
/// when it is given to a function at all. `None` when it is none.
pub(crate) fn as_xray(traceparent: &str) -> Option<String> {
    let mut parts = traceparent.split('-').skip(1);
    let (trace, span) = (parts.next()?, parts.next()?);
    let (time, rest) = trace.split_at_checked(8)?;
    (trace.len() == 32 && span.len() == 16)
        .then(|| format!("Root=1-{time}-{rest};Parent={span};Sampled=1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_keeps_its_ids_in_the_other_form() {
        let w3c = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let xray = "Root=1-4bf92f35-77b34da6a3ce929d0e0e4736;Parent=00f067aa0ba902b7;Sampled=1";
        assert_eq!(as_xray(w3c).as_deref(), Some(xray));
        assert_eq!((as_xray(""), as_xray("00-1-2-01")), (None, None));
    }
}
