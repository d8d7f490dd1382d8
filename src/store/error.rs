//! What can go wrong in the store, each with a sentence for a person: what was attempted, on which file and offset,
//! what to do.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// An error of the store. Its `Display` is one line.
#[derive(Clone, Debug)]
pub enum Error {
    /// The store accepts no more writes until it is opened anew, because a log write or an `fdatasync` failed: what
    /// the kernel did with the pages is then unknown, and trying again could report success for data that is gone
    /// (see the PostgreSQL "fsyncgate" of 2018). Reads go on.
    ReadOnly(Arc<str>),
    /// The disk has no room for another segment. Reads and what still fits go on; writes resume by themselves.
    Full(Arc<str>),
    /// Bytes on the disk do not match their checksum.
    Damaged(Arc<str>),
    /// The request cannot be carried out as it is (a key too long, for instance).
    Invalid(Arc<str>),
    /// Anything else the system refused, at opening or later.
    Other(Arc<str>),
}

/// The store's results.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// `attempt` ("open", "write 512 bytes at offset 64 of"), the file, and what the system said.
    pub(crate) fn io(attempt: impl fmt::Display, path: &Path, error: &io::Error) -> Error {
        Error::Other(format!("cannot {attempt} {}: {error}", path.display()).into())
    }

    /// As [`Error::io`]; [`Error::Full`] where the system says that there is no room.
    pub(crate) fn full_or_io(attempt: impl fmt::Display, path: &Path, error: &io::Error) -> Error {
        match is_full(error) {
            true => Error::Full(format!("cannot {attempt} {}: {error}", path.display()).into()),
            false => Error::io(attempt, path, error),
        }
    }

    pub(crate) fn other(text: impl Into<String>) -> Error {
        Error::Other(text.into().into())
    }

    pub(crate) fn damaged(path: &Path, offset: u64, what: &str) -> Error {
        let text = format!("{} at offset {offset}: {what}", path.display());
        Error::Damaged(text.into())
    }
}

/// Whether the system lacks room, which may come back, and not more.
pub(crate) fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::ReadOnly(why) => write!(f, "the store accepts no writes: {why}"),
            Error::Full(why) => write!(f, "out of disk space: {why}"),
            Error::Damaged(what) => write!(f, "damaged data in {what}"),
            Error::Invalid(what) | Error::Other(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for Error {}
