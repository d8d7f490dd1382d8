//! What `bench` measures: kinds of requests at several value sizes.

use crate::wire::{Op, Work};

/// Value sizes. Bytes.
pub const SIZES: [usize; 3] = [100, 4 * 1024, 64 * 1024];
/// Keys that are stored beforehand and drawn from.
pub const SPACE: u32 = 100_000;
/// The same for values of 64 KiB, so that they fit in memory.
pub const SPACE_OF_LARGE: u32 = 10_000;
/// Requests sent at once where they are pipelined.
pub const PIPELINE: usize = 16;
/// Keys of a multiget.
pub const MANY: usize = 100;

/// One row of the tables.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Case {
    /// On the command line: `get`, `set16`, `open-get` ….
    pub kind: &'static str,
    /// What is sent.
    pub work: Work,
    /// Batches per second of an open loop; none: a closed one.
    pub rate: Option<f64>,
}

impl Case {
    /// All cases of one value size.
    pub fn of_size(size: usize, space: u32) -> Vec<Case> {
        let single = |op| Work::single(op, size, space);
        let closed = |kind, work| Case { kind, work, rate: None };
        let open = |kind, work| Case { kind, work, rate: Some(moderate_rate(size)) };
        vec![
            closed("get", single(Op::Get)),
            closed("set", single(Op::Set)),
            closed("get16", Work { depth: PIPELINE, ..single(Op::Get) }),
            closed("set16", Work { depth: PIPELINE, ..single(Op::Set) }),
            closed("mget", Work { keys: MANY, ..single(Op::Get) }),
            open("open-get", single(Op::Get)),
            open("open-set", single(Op::Set)),
        ]
    }

    /// Kind and size: `get-100`.
    pub fn name(&self) -> String {
        format!("{}-{}", self.kind, self.work.size)
    }

    /// For people.
    pub fn title(&self) -> String {
        format!("{}, {}", self.kind_title(), size_title(self.work.size))
    }

    /// For people, without the size.
    pub fn kind_title(&self) -> String {
        match self.kind {
            "get16" => format!("get ×{PIPELINE}"),
            "set16" => format!("set ×{PIPELINE}"),
            "mget" => format!("get of {MANY} keys"),
            "open-get" => format!("get at {}/s", moderate_rate(self.work.size)),
            "open-set" => format!("set at {}/s", moderate_rate(self.work.size)),
            plain => plain.to_owned(),
        }
    }

    /// Whether the command line's `--cases` picks it: its kind or its name.
    pub fn is_in(&self, picked: &[String]) -> bool {
        picked.is_empty() || picked.iter().any(|text| *text == self.kind || *text == self.name())
    }
}

/// Well below what any of the peers can do on one core.
fn moderate_rate(size: usize) -> f64 {
    match size {
        ..=1024 => 20_000.0,
        1025..=16_384 => 10_000.0,
        _ => 2_000.0,
    }
}

/// `100 B`, `4 KiB`, `1 MiB`.
pub fn size_title(bytes: usize) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{} KiB", bytes / 1024),
        _ => format!("{} MiB", bytes / 1_048_576),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases_are_picked_by_kind_or_by_name() {
        let cases = Case::of_size(100, 10);
        let count = |picked: &[&str]| {
            let picked: Vec<String> = picked.iter().map(|text| text.to_string()).collect();
            cases.iter().filter(|case| case.is_in(&picked)).count()
        };
        assert_eq!([count(&[]), count(&["get", "set16-100"]), count(&["get-4096"])], [7, 2, 0]);
    }

    #[test]
    fn an_operation_is_a_key() {
        let ops: Vec<usize> = Case::of_size(100, 10).iter().map(|case| case.work.ops()).collect();
        assert_eq!(ops, [1, 1, 16, 16, 100, 1, 1]);
    }
}
