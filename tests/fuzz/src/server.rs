//! The parsers' own names for each other begin with `crate::server`.

#[path = "../../../src/server/proto/mod.rs"]
pub mod proto;
#[path = "../../../src/server/reply.rs"]
pub mod reply;
