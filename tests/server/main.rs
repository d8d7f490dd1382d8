//! The server at work: how it is started and ended, what it may be asked beside the protocol, and what its connections do
//! to each other. One program, for it is quicker to compile than one of each.

#[path = "../common/mod.rs"]
mod common;

mod admin;
mod admin_check;
mod concurrency;
mod event_loop;
mod large_values;
mod lent_values;
mod listening;
mod messages;
mod options;
mod transfers;
