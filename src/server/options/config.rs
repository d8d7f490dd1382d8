//! The configuration file: one option per line, `name = value` or `name value`, named as on the command line. `#`
//! starts a comment, at the start of a line or behind a space.

/// One setting of a file.
#[derive(Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Counted from 1.
    pub line: usize,
    pub name: &'a str,
    /// `None`: the name stood alone.
    pub value: Option<&'a str>,
}

/// The settings of a file, in order.
pub fn entries(text: &str) -> impl Iterator<Item = Entry<'_>> {
    text.lines().enumerate().filter_map(|(index, line)| {
        let line_text = without_comment(line).trim();
        (!line_text.is_empty()).then(|| entry(index + 1, line_text))
    })
}

fn entry(line: usize, text: &str) -> Entry<'_> {
    let end = text.find(|c: char| c == '=' || c.is_whitespace()).unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let rest = rest.trim_start();
    let value = rest.strip_prefix('=').unwrap_or(rest).trim_start();
    let value = (!rest.is_empty()).then(|| unquoted(value));
    Entry { line, name: name.trim_start_matches("--"), value }
}

fn without_comment(line: &str) -> &str {
    let comment = line.match_indices('#').find(|(at, _)| line[..*at].ends_with(char::is_whitespace) || *at == 0);
    comment.map_or(line, |(at, _)| &line[..at])
}

/// Quotes around the whole value are for people who expect to need them.
fn unquoted(value: &str) -> &str {
    let within = |quote| value.strip_prefix(quote)?.strip_suffix(quote);
    within('"').or_else(|| within('\'')).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let text = "# comment\n\ndb.path = /var/lib/k # here\nserver.port 11211\nserver.threads=4\r\n  daemon\n\
                    db.sync-interval = 5 seconds\nlog.target = \"/tmp/a#b\"\n--user=king\nempty =\nsingle = 'it'\nhalf = 'it\n";
        let found: Vec<_> = entries(text).map(|e| (e.line, e.name, e.value)).collect();
        assert_eq!(
            found,
            [
                (3, "db.path", Some("/var/lib/k")),
                (4, "server.port", Some("11211")),
                (5, "server.threads", Some("4")),
                (6, "daemon", None),
                (7, "db.sync-interval", Some("5 seconds")),
                (8, "log.target", Some("/tmp/a#b")),
                (9, "user", Some("king")),
                (10, "empty", Some("")),
                (11, "single", Some("it")),
                (12, "half", Some("'it")),
            ]
        );
    }
}
