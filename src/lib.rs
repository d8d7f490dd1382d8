//! KingDB: an embeddable, crash-safe, log-structured key-value store.
#![deny(missing_docs)]

pub mod store;
#[doc(hidden)]
#[allow(missing_docs)]
pub mod sys;

pub use store::{Db, Error, Options, Sync};
