//! What the programs of the benches share: the passthrough that a node on Kafka is measured
//! against, once linked with the system's malloc and once with the node's.

pub mod passthrough;
