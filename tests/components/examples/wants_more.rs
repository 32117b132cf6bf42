//! Imports what no function is given: it must be refused by that name.

#[allow(clippy::all)]
mod bindings {
    wit_bindgen::generate!({
        inline: "
            package test:wants-more@0.1.0;
            interface database { query: func(sql: string) -> string; }
            world wants-more {
                import database;
                export handle: func(batch: list<u8>) -> list<u8>;
            }
        ",
    });
}

struct WantsMore;

impl bindings::Guest for WantsMore {
    fn handle(_batch: Vec<u8>) -> Vec<u8> {
        bindings::test::wants_more::database::query("select 1").into_bytes()
    }
}

bindings::export!(WantsMore with_types_in bindings);
