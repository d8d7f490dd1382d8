//! What a mistyped option may have meant: `--db-path` is near `--db.path`, `--port2` near `--port`, `--path` near the end
//! of `--db.path`.

/// Edits that still make a near miss: more of them turn short names into one another.
const EDITS: usize = 2;

/// The name that `wrong` is nearest to; the first of several. `None`: none is near.
pub fn nearest<'a>(wrong: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let wrong = plain(wrong);
    let near = names.filter_map(|name| Some((misses(&wrong, &plain(name))?, name)));
    near.min_by_key(|(misses, _)| *misses).map(|(_, name)| name)
}

/// How far apart: 0 for the same, `None` for too far. A name's beginning or end is as near as one edit.
fn misses(wrong: &str, name: &str) -> Option<usize> {
    let edits = distance(wrong, name);
    let part = wrong.len() >= 3 && (name.starts_with(wrong) || name.ends_with(&format!("-{wrong}")));
    let misses = if part { edits.min(1) } else { edits };
    (misses <= EDITS && misses * 2 <= wrong.chars().count()).then_some(misses)
}

/// One spelling for the ways to part words.
fn plain(name: &str) -> String {
    name.to_lowercase().replace(['.', '_'], "-")
}

/// Levenshtein's: how many characters to insert, remove or replace.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_and_far() {
        let names = ["db.path", "db.sync", "db.sync-interval", "server.port", "port", "server.max-connections", "help"];
        for (wrong, expected) in [
            ("db-path", Some("db.path")),
            ("DB_PATH", Some("db.path")),
            ("path", Some("db.path")),
            ("prot", Some("port")),
            ("server.prot", Some("server.port")),
            ("db.synch", Some("db.sync")),
            ("server.max", Some("server.max-connections")),
            ("hepl", Some("help")),
            ("nonsense", None),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(nearest(wrong, names.into_iter()), expected, "{wrong}");
        }
    }

    #[test]
    fn distances() {
        for (a, b, expected) in [("", "abc", 3), ("abc", "", 3), ("kitten", "sitting", 3), ("same", "same", 0)] {
            assert_eq!(distance(a, b), expected, "{a} {b}");
        }
    }
}
