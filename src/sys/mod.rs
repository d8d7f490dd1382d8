//! The kernel, behind small safe types named after their man pages.
//!
//! This is the one module that may say `unsafe` or name `libc`; every other layer forbids both. Nothing here knows what
//! a key or a connection is.

pub mod clock;
pub mod copy;
pub mod crc;
pub mod epoll;
pub mod event;
pub mod file;
pub mod memory;
pub mod poll;
pub mod prefetch;
pub mod priority;
pub mod process;
pub mod resource;
pub mod signal;
pub mod socket;
pub mod statvfs;
