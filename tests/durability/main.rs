//! What was acknowledged is there: after ends and starts, kills, failing system calls and damage, and after every sequence
//! of commands. One program, for it is quicker to compile than one of each.

#[path = "../common/mod.rs"]
mod common;

mod damage;
mod errno_sweep;
mod model;
mod persistence;
