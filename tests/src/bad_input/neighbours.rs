//! What other processes hold already: the data directory, the port.

use std::net::TcpListener;

use crate::bad_input::ground::{Function, Ground, PATIENCE, arrived, is_clear, records, stop};
use crate::demand;
use crate::harness::command;
use crate::promise::{During, NotShown};

pub(super) fn second_process(ground: &Ground) -> Result<(), NotShown> {
    ground.application(&[Function::of("identity")])?;
    let (mut node, api) = ground.serve()?;
    api.produce("identity.in", &records(&["before"]))?;
    let pid = node.pid().to_string();
    ground.refuses(&[&pid])?;
    demand!(node.is_running(), "the first process ended: {}", node.tail());
    api.produce("identity.in", &records(&["after"]))?;
    arrived(&api, "identity.out", 2)?;
    stop(node)
}

pub(super) fn port_in_use(ground: &Ground) -> Result<(), NotShown> {
    ground.application(&[Function::of("identity")])?;
    let listener = TcpListener::bind("127.0.0.1:0").during("bind a port")?;
    let address = listener.local_addr().during("ask for the port")?.to_string();
    let mut serve = ground.serve_command();
    let said = command::run(serve.args(["--listen", &address]), PATIENCE)?;
    demand!(said.status.is_some_and(|it| it != 0), "status {:?}: {}", said.status, said.all());
    is_clear(&said.stderr)?;
    demand!(said.stderr.contains(&address), "the error does not name {address}: {}", said.stderr);
    demand!(said.stderr.contains("E0501"), "the error has no code E0501: {}", said.stderr);
    // The directory is free for the next try.
    let (node, _) = ground.serve()?;
    stop(node)
}
