//! The benchmark's parts: a load generator that is one thread over many connections, the peers it is pointed at, and
//! what is made of the figures. Programs: `bench` (peers side by side), `threads` (an event loop against a thread per
//! connection), `commit` (sets that share an fdatasync), `idle` (memory of an idle connection), and two servers to
//! compare with, `null` and `threaded`.

pub mod apart;
pub mod case;
pub mod load;
pub mod matrix;
pub mod measure;
pub mod peer;
pub mod place;
pub mod plot;
pub mod proc;
pub mod report;
pub mod sys;
pub mod wire;
