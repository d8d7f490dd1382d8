//! The protocols: bytes in, commands out. Pure functions without I/O, allocation or a view of the store, so that a test
//! is a table.
#![forbid(unsafe_code)]

pub mod base64;
pub mod binary;
pub mod meta;
pub mod text;
