//! Steps of the text and meta dialects: each is sent, and after it a no-op whose answer ends its reply.

use super::pair::{Pair, Side};
use std::fmt::Write;

/// Stands for the unique that `mg KEY c` tells just before.
pub const UNIQUE: &str = "{unique}";
/// Stands for the time of day, in seconds.
pub const NOW: &str = "{now}";

/// What is sent.
#[derive(Clone)]
pub struct Step {
    pub bytes: Vec<u8>,
    /// The key whose unique [`UNIQUE`] is.
    pub unique_of: Option<String>,
    /// The last of its connection, which is half-closed behind it: it may lack what it announces.
    pub last: bool,
}

impl Step {
    pub fn new(line: &str) -> Step {
        Step { bytes: format!("{line}\r\n").into_bytes(), unique_of: None, last: false }
    }

    pub fn with_data(line: &str, data: &[u8]) -> Step {
        Step { bytes: [line.as_bytes(), b"\r\n", data, b"\r\n"].concat(), unique_of: None, last: false }
    }

    /// Whatever the data block is taken for, commands follow it, and then the end.
    pub fn last(mut self) -> Step {
        self.bytes.extend(b"get key0 key1\r\nmn\r\nmg key2 v\r\n");
        self.last = true;
        self
    }

    pub fn unique_of(mut self, key: &str) -> Step {
        self.unique_of = Some(key.to_string());
        self
    }
}

impl std::fmt::Debug for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = self.bytes[..self.bytes.len().min(300)].escape_ascii();
        write!(f, "{text}{}", if self.last { " (and the end)" } else { "" })
    }
}

/// Sends the steps to both and compares what comes.
pub fn run(pair: &mut Pair, steps: &[Step]) -> Result<(), String> {
    let (mut theirs, mut ours) = pair.connect();
    let mut sent = String::new();
    for step in steps {
        let _ = writeln!(sent, "  {step:?}");
        let (wanted, got) = (take(&mut theirs, step), take(&mut ours, step));
        let skipped = step.last && matches!((&wanted, &got), (Ok(wanted), Ok(got)) if wanted.took_data_for_a_line(got));
        if (wanted != got && !skipped) || wanted.is_err() {
            return Err(format!("sent:\n{sent}memcached: {}\n     ours: {}", show(&wanted), show(&got)));
        }
        if step.last || wanted.is_ok_and(|reply| reply.closed) {
            break;
        }
    }
    Ok(())
}

fn show(reply: &Result<Reply, String>) -> String {
    match reply {
        Ok(reply) => {
            let text = reply.text.escape_ascii().to_string();
            format!("{}{}", &text[..text.len().min(500)], if reply.closed { " (closed)" } else { "" })
        }
        Err(why) => why.clone(),
    }
}

/// Everything up to the no-op's answer, or up to the end of the connection.
#[derive(PartialEq, Eq)]
struct Reply {
    text: Vec<u8>,
    closed: bool,
}

impl Reply {
    /// Behind some lines that it refuses, memcached takes the data block for a command, where we skip it.
    fn took_data_for_a_line(&self, other: &Reply) -> bool {
        const LINE: &[u8] = b"\r\nERROR\r\n";
        let at = self.text.windows(LINE.len()).position(|window| window == LINE);
        at.is_some_and(|at| [&self.text[..at + 2], &self.text[at + LINE.len()..]].concat() == other.text)
    }
}

fn take(side: &mut Side, step: &Step) -> Result<Reply, String> {
    let unique = match &step.unique_of {
        Some(key) => ask_unique(side, key)?,
        None => 0,
    };
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs() + 5000;
    let bytes = replace(&step.bytes, UNIQUE, &unique.to_string());
    side.send(&replace(&bytes, NOW, &now.to_string()));
    match step.last {
        true => side.finish(),
        false => side.send(b"mn\r\n"),
    }
    read(side, step.last)
}

fn read(side: &mut Side, to_the_end: bool) -> Result<Reply, String> {
    let mut text = Vec::new();
    loop {
        let line = side.line()?;
        if line.is_empty() || (line == b"MN\r\n" && !to_the_end) {
            return Ok(Reply { text, closed: line.is_empty() });
        }
        text.extend(normal(side, &line));
        text.extend(side.bytes(block(&line))?);
    }
}

/// How long the data block behind this line is.
fn block(line: &[u8]) -> usize {
    let words: Vec<&[u8]> = line.trim_ascii_end().split(|byte| *byte == b' ').collect();
    let len = match words[0] {
        b"VALUE" => words.get(3),
        b"VA" => words.get(1),
        _ => None,
    };
    len.and_then(|len| std::str::from_utf8(len).ok()).and_then(|len| len.parse::<usize>().ok()).map_or(0, |len| len + 2)
}

/// The line without what may differ from server to server: uniques by number, times by a second or two.
fn normal(side: &mut Side, line: &[u8]) -> Vec<u8> {
    let line = String::from_utf8_lossy(line).into_owned();
    let words: Vec<String> = line.split(' ').map(String::from).collect();
    let meta = matches!(words[0].trim_end(), "HD" | "VA" | "EN" | "NF" | "NS" | "EX");
    let normal = |(index, word): (usize, &String)| -> String {
        let (body, end) = word.split_at(word.trim_end().len());
        let number = |from: usize| body.get(from..).and_then(|digits| digits.parse::<u64>().ok());
        let shown = match (words[0].as_str(), body.as_bytes().first()) {
            ("VALUE", _) if index == 4 => number(0).map(|unique| format!("#{}", side.unique(unique))),
            ("ME", _) if index > 1 => Some(debug(body)),
            _ if !meta || index == 0 => None,
            (_, Some(b'c')) => number(1).map(|unique| format!("c#{}", side.unique(unique))),
            // Times to live are given in hundreds.
            (_, Some(b't')) => number(1).map(|ttl| format!("t{}00", (ttl + 10) / 100)),
            (_, Some(b'l')) => number(1).filter(|age| *age < 10).map(|_| "l#".to_string()),
            _ => None,
        };
        shown.unwrap_or_else(|| body.to_string()) + end
    };
    words.iter().enumerate().map(normal).collect::<Vec<_>>().join(" ").into_bytes()
}

/// `me` tells about the insides of a server; what is left is what both have.
fn debug(word: &str) -> String {
    match word.split_once('=') {
        Some(("la" | "cas" | "cls" | "size" | "fetch", _)) => word.split('=').next().expect("a name").to_string(),
        Some(("exp", seconds)) => format!("exp={}", seconds.parse::<i64>().map_or(-9, |seconds| (seconds + 10) / 100)),
        _ => word.to_string(),
    }
}

fn ask_unique(side: &mut Side, key: &str) -> Result<u64, String> {
    side.send(format!("mg {key} c\r\n").as_bytes());
    let line = String::from_utf8_lossy(&side.line()?).into_owned();
    Ok(line.trim().strip_prefix("HD c").and_then(|unique| unique.parse().ok()).unwrap_or(1))
}

/// The bytes with the first occurrence of `what` replaced.
pub fn replace(bytes: &[u8], what: &str, with: &str) -> Vec<u8> {
    match bytes.windows(what.len()).position(|window| window == what.as_bytes()) {
        Some(at) => [&bytes[..at], with.as_bytes(), &bytes[at + what.len()..]].concat(),
        None => bytes.to_vec(),
    }
}
