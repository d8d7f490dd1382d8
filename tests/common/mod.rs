//! What the tests of the real binary share: a server on a free loopback port with a data directory of its own ([`server`]),
//! a small text-protocol client ([`client`]), its dialogues ([`dialogue`]), strace on a running server ([`strace`]), a disk whose power can be cut ([`disk`]), the load of the crash tests ([`writer`]) and what it may leave ([`history`]),
//! memcached itself ([`peer`]), values for property tests ([`recipe`]), and the counts, values and waits ([`util`]).
//!
//! Every wait has a deadline: a hang is a failure, shown with what the server wrote to stderr. Servers are ended by process
//! id, so tests run in parallel, and beside other servers of the same machine.
//!
//! `KINGSERVER=FILE` tests another binary; `KINGSERVER_PEER=/usr/bin/memcached` runs the protocol tests against memcached,
//! which proves that what they expect is memcached's and not a guess.
#![allow(dead_code, unused_imports)]

pub mod client;
pub mod dialogue;
pub mod disk;
pub mod history;
pub mod peer;
pub mod recipe;
pub mod server;
pub mod strace;
pub mod util;
pub mod writer;

pub use client::Client;
pub use peer::Peer;
pub use server::Server;
