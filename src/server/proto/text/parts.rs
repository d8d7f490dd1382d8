//! What memcached does not have: uploading a value in parts. `kingserver-protocol(7)` has the commands.

use super::{BAD_LINE, Command, Line, MAX_UPLOAD_PARTS, Refusal, TOO_LARGE, Verb, block_len, number, refuse, signed};

/// `part <upload> <number> <bytes> [noreply]`
pub fn part<'a>(line: &Line<'a>, max_value: u64) -> Result<Command<'a>, Refusal> {
    line.want(4)?;
    let noreply = line.noreply();
    let len = block_len(line.words[3], max_value)?;
    let number = number(line.words[2]).filter(|number| (1..=MAX_UPLOAD_PARTS).contains(number));
    let refused = match (line.key(noreply), number) {
        (Ok(key), Some(cas)) if (1..=max_value).contains(&len) => {
            return Ok(Command::Store { verb: Verb::Part, key, flags: 0, exptime: 0, len, cas, noreply });
        }
        (Ok(_), Some(_)) if len > 0 => refuse(TOO_LARGE, noreply),
        (Err(refusal), _) => Err(refusal),
        _ => refuse(BAD_LINE, noreply),
    };
    refused.map_err(|refusal| Refusal { swallow: len + 2, ..refusal })
}

/// `commit <upload> <key> <flags> <exptime> <parts> [noreply]`
pub fn commit<'a>(line: &Line<'a>) -> Result<Command<'a>, Refusal> {
    line.want(6)?;
    let noreply = line.noreply();
    let upload = line.key(noreply)?;
    let key = line.key_at(2, noreply)?;
    let flags = number(line.words[3]).and_then(|flags| u32::try_from(flags).ok());
    match (flags, signed(line.words[4]), number(line.words[5])) {
        (Some(flags), Some(exptime), Some(parts)) => {
            Ok(Command::Commit { upload, key, flags, exptime, parts, noreply })
        }
        _ => refuse(BAD_LINE, noreply),
    }
}

/// `abort <upload> [noreply]`
pub fn abort<'a>(line: &Line<'a>) -> Result<Command<'a>, Refusal> {
    line.want(2)?;
    let noreply = line.noreply();
    Ok(Command::Abort { upload: line.key(noreply)?, noreply })
}
