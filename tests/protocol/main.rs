//! What is said over a connection, and what must be answered, dialect by dialect; however the bytes arrive; and beside
//! memcached itself. One program, for it is quicker to compile than one of each.

#[path = "../common/mod.rs"]
mod common;

mod binary;
mod classic;
mod control;
mod delivery;
mod differential;
mod errors;
mod meta;
mod time;
