//! What strace wrote (`-f -xx`, strings in full), as a list of calls.

/// One system call. Times are line numbers, counted on through all traces: a call took effect somewhere in between.
pub struct Call {
    pub name: String,
    args: Vec<String>,
    pub result: i64,
    pub begun: usize,
    /// [`NEVER`] if the process was killed in it.
    pub ended: usize,
}

/// A time after everything.
pub const NEVER: usize = usize::MAX;

impl Call {
    /// A number, written in decimal, octal or hexadecimal; flags and the like count as zero.
    pub fn number(&self, index: usize) -> i64 {
        let text = self.args.get(index).map_or("", String::as_str);
        text.parse().unwrap_or(0)
    }

    /// Whether a flag is among those of this argument.
    pub fn has_flag(&self, index: usize, flag: &str) -> bool {
        self.args.get(index).is_some_and(|text| text.split('|').any(|word| word == flag))
    }

    /// A string's or buffer's bytes.
    pub fn bytes(&self, index: usize) -> Vec<u8> {
        unquote(self.args.get(index).map_or("", String::as_str))
    }

    /// What the slices of a `sendmsg` hold, one after the other.
    pub fn slices(&self) -> Vec<u8> {
        self.args.iter().filter_map(|arg| arg.split_once("iov_base=")).flat_map(|(_, text)| unquote(text)).collect()
    }

    pub fn text(&self, index: usize) -> String {
        String::from_utf8(self.bytes(index)).expect("a path of ours is UTF-8")
    }

    /// An argument that is `[number]` or `NULL`.
    pub fn pointed(&self, index: usize) -> Option<u64> {
        self.args.get(index)?.strip_prefix('[')?.split([' ', ']']).next()?.parse().ok()
    }
}

/// Reads a trace whose first line stands at time `start`. Gives the calls in the order of their effects, and the time after it.
pub fn parse(text: &str, start: usize) -> (Vec<Call>, usize) {
    let mut calls = Vec::new();
    let mut open: Vec<(&str, usize, String)> = Vec::new();
    let mut time = start;
    for line in text.lines() {
        time += 1;
        let (pid, rest) = line.trim_start().split_once(' ').expect("a process id");
        let rest = rest.trim_start();
        if rest.starts_with("+++") || rest.starts_with("---") {
            continue;
        }
        if let Some(begin) = rest.strip_suffix("<unfinished ...>") {
            open.push((pid, time, begin.to_string()));
        } else if rest.starts_with("<... ") {
            let at = open.iter().position(|(of, ..)| *of == pid).expect("the call began");
            let (_, begun, begin) = open.swap_remove(at);
            let (_, end) = rest.split_once(" resumed>").expect("a resumed call");
            calls.extend(call(&(begin + end), begun, time));
        } else {
            calls.extend(call(rest, time, time));
        }
    }
    calls.extend(open.into_iter().filter_map(|(_, begun, begin)| call(&(begin + ") = ?"), begun, NEVER)));
    // A descriptor is free for the next file from the beginning of its close on.
    calls.sort_by_key(|call| if call.name == "close" { call.begun } else { call.ended });
    (calls, time + 1)
}

/// The bytes of a string in quotes.
fn unquote(text: &str) -> Vec<u8> {
    assert!(!text.ends_with("..."), "strace cut a string off");
    let digit = |byte: u8| (byte as char).to_digit(16).expect("hexadecimal") as u8;
    text.trim_matches('"').as_bytes().chunks(4).map(|code| digit(code[2]) << 4 | digit(code[3])).collect()
}

/// `name(args) = result`; nothing where the process was killed before it did anything.
fn call(text: &str, begun: usize, ended: usize) -> Option<Call> {
    let (name, rest) = text.split_once('(')?;
    let (args, result) = rest.rsplit_once(" = ")?;
    let args = args.trim_end().strip_suffix(')')?;
    let number = result.split(' ').next().expect("a word");
    let (result, ended) = match number.parse() {
        Ok(result) => (result, ended),
        Err(_) => (0, NEVER),
    };
    let args = args.split(", ").map(|arg| arg.trim().to_string()).collect();
    Some(Call { name: name.to_string(), args, result, begun, ended })
}
