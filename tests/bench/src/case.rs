//! What `bench` measures: kinds of requests at several value sizes.

use crate::peer::Peer;
use crate::wire::{Dialect, Op, Work};

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
/// The one value size at which dialects are compared: they differ around the value, whatever its size. Bytes.
pub const SIZE_OF_DIALECTS: usize = 100;
const DIALECTS: [(&str, Dialect, Op, usize); 8] = [
    ("meta-get", Dialect::Meta, Op::Get, 1),
    ("meta-set", Dialect::Meta, Op::Set, 1),
    ("meta-get16", Dialect::Meta, Op::Get, PIPELINE),
    ("meta-set16", Dialect::Meta, Op::Set, PIPELINE),
    ("binary-get", Dialect::Binary, Op::Get, 1),
    ("binary-set", Dialect::Binary, Op::Set, 1),
    ("binary-get16", Dialect::Binary, Op::Get, PIPELINE),
    ("binary-set16", Dialect::Binary, Op::Set, PIPELINE),
];

/// One row of the tables.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Case {
    /// On the command line: `get`, `set16`, `open-get`, `meta-get` ….
    pub kind: &'static str,
    /// What is sent.
    pub work: Work,
    /// In this dialect, to the peers that speak it; none: to each peer in its own.
    pub dialect: Option<Dialect>,
    /// Batches per second of an open loop; none: a closed one.
    pub rate: Option<f64>,
}

impl Case {
    /// All cases of one value size.
    pub fn of_size(size: usize, space: u32) -> Vec<Case> {
        let single = |op| Work::single(op, size, space);
        let closed = |kind, work| Case { kind, work, dialect: None, rate: None };
        let open = |kind, work| Case { rate: Some(moderate_rate(size)), ..closed(kind, work) };
        let fixed = |(kind, dialect, op, depth)| {
            let case = closed(kind, Work { depth, ..single(op) });
            Case { dialect: Some(dialect), ..case }
        };
        let mut cases = vec![
            closed("get", single(Op::Get)),
            closed("set", single(Op::Set)),
            closed("get16", Work { depth: PIPELINE, ..single(Op::Get) }),
            closed("set16", Work { depth: PIPELINE, ..single(Op::Set) }),
            closed("mget", Work { keys: MANY, ..single(Op::Get) }),
            open("open-get", single(Op::Get)),
            open("open-set", single(Op::Set)),
        ];
        if size == SIZE_OF_DIALECTS {
            cases.extend(DIALECTS.map(fixed));
        }
        cases
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
            "mget" => format!("get of {MANY} keys"),
            "open-get" => format!("get at {}/s", moderate_rate(self.work.size)),
            "open-set" => format!("set at {}/s", moderate_rate(self.work.size)),
            plain => spaced(plain),
        }
    }

    /// Whether a peer speaks its dialect.
    pub fn suits(&self, peer: Peer) -> bool {
        self.dialect.is_none_or(|dialect| peer.speaks(dialect))
    }

    /// Whether the command line's `--cases` picks it: its kind or its name.
    pub fn is_in(&self, picked: &[String]) -> bool {
        picked.is_empty() || picked.iter().any(|text| *text == self.kind || *text == self.name())
    }
}

/// `set ×16` for `set16`, `meta get` for `meta-get`.
fn spaced(kind: &str) -> String {
    let words = kind.replace('-', " ");
    words.strip_suffix("16").map_or(words.clone(), |single| format!("{single} ×{PIPELINE}"))
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
        assert_eq!([count(&[]), count(&["get", "set16-100"]), count(&["get-4096"])], [15, 2, 0]);
        assert_eq!([count(&["meta-get"]), count(&["binary-set16-100"])], [1, 1]);
    }

    #[test]
    fn an_operation_is_a_key() {
        let ops: Vec<usize> = Case::of_size(100, 10).iter().map(|case| case.work.ops()).collect();
        assert_eq!(ops, [1, 1, 16, 16, 100, 1, 1, 1, 1, 16, 16, 1, 1, 16, 16]);
    }

    #[test]
    fn a_dialect_is_fixed_at_one_size_and_leaves_out_who_does_not_speak_it() {
        assert!(Case::of_size(4096, 10).iter().all(|case| case.dialect.is_none() && case.suits(Peer::Redis)));
        let fixed: Vec<Case> = Case::of_size(100, 10).into_iter().filter(|case| case.dialect.is_some()).collect();
        assert_eq!(fixed.len(), 8);
        for case in fixed {
            assert_eq!(Peer::ALL.map(|peer| case.suits(peer)), [false, true, true, false], "{}", case.name());
        }
    }

    #[test]
    fn titles_are_for_people() {
        let titles: Vec<String> = Case::of_size(100, 10).iter().map(Case::title).collect();
        assert_eq!(
            [0, 2, 4, 5].map(|index: usize| &titles[index][..]),
            ["get, 100 B", "get ×16, 100 B", "get of 100 keys, 100 B", "get at 20000/s, 100 B"]
        );
        assert_eq!([7, 14].map(|index: usize| &titles[index][..]), ["meta get, 100 B", "binary set ×16, 100 B"]);
    }
}
