//! Crash states: what a trace says ([`trace`]), the file system that it leads to ([`files`]), what the server promised meanwhile
//! ([`history`]), and the states that a crash could leave ([`states`]).

pub mod files;
pub mod history;
pub mod states;
pub mod trace;
