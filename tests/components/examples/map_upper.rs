//! The world `map`: one value in, upper case out; empty gives nothing, "fail" fails.

#[allow(clippy::all)]
mod bindings {
    wit_bindgen::generate!({ path: "../../node/guest/wit", world: "%map" });
}

struct Upper;

impl bindings::Guest for Upper {
    fn handle(value: Vec<u8>) -> Result<Option<Vec<u8>>, String> {
        match &value[..] {
            b"" => Ok(None),
            b"fail" => Err("it was told to".to_owned()),
            value => Ok(Some(value.to_ascii_uppercase())),
        }
    }
}

bindings::export!(Upper with_types_in bindings);
