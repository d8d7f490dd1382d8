//! The fuzz targets with a fixed seed: over the seed corpora, and over so many mutations of them.

use std::path::Path;

/// xorshift64*.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) as usize % limit
    }
}

fn mutations() -> usize {
    match std::env::var("TIER").as_deref() {
        Err(_) | Ok("test") => 200_000,
        Ok("ci") => 2_000_000,
        Ok("full") => 100_000_000,
        Ok(other) => panic!("TIER={other}: say test, ci or full"),
    }
}

fn folder(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let mut files: Vec<_> = std::fs::read_dir(folder("seeds").join(target))
        .expect("the seeds")
        .map(|entry| entry.expect("a seed").path())
        .collect();
    files.sort();
    let seeds: Vec<_> = files.iter().map(|file| std::fs::read(file).expect("a seed")).collect();
    assert!(seeds.len() >= 10, "{target}: only {} seeds", seeds.len());
    seeds
}

/// The words of libFuzzer's dictionary: `"text\x0d\x0a"`, one a line.
fn dictionary(target: &str) -> Vec<Vec<u8>> {
    let text = std::fs::read_to_string(folder(&format!("{target}.dict"))).expect("the dictionary");
    let words = text.lines().filter_map(|line| line.strip_prefix('"')?.strip_suffix('"'));
    words.map(unescape).collect()
}

fn unescape(word: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = word;
    while let Some(first) = rest.chars().next() {
        let escape = rest.strip_prefix("\\x").and_then(|hex| u8::from_str_radix(hex.get(..2)?, 16).ok());
        bytes.push(escape.unwrap_or(first as u8));
        rest = &rest[if escape.is_some() { 4 } else { first.len_utf8() }..];
    }
    bytes
}

/// Changes a few bytes, and now and then puts in a word or a piece of another seed, or cuts the rest off.
fn mutate(bytes: &mut Vec<u8>, words: &[Vec<u8>], seeds: &[Vec<u8>], random: &mut Random) {
    for _ in 0..1 + random.below(6) {
        let at = random.below(bytes.len() + 1);
        match random.below(7) {
            0 => bytes.insert(at, random.below(256) as u8),
            1 if at < bytes.len() => drop(bytes.remove(at)),
            2 if at < bytes.len() => bytes[at] = random.below(256) as u8,
            3 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            4 => drop(bytes.splice(at..at, words[random.below(words.len())].iter().copied())),
            5 => {
                let other = &seeds[random.below(seeds.len())];
                bytes.extend_from_slice(&other[random.below(other.len())..]);
            }
            _ if random.below(4) == 0 => bytes.truncate(at),
            _ => {}
        }
    }
    bytes.truncate(6000);
}

fn run(target: &str, check: fn(&[u8])) {
    let (seeds, words) = (seeds(target), dictionary(target));
    seeds.iter().for_each(|seed| check(seed));
    let mut random = Random(2015);
    let count = mutations();
    for _ in 0..count {
        let mut bytes = seeds[random.below(seeds.len())].clone();
        mutate(&mut bytes, &words, &seeds, &mut random);
        check(&bytes);
    }
    println!("{target}: {} seeds, {count} mutations", seeds.len());
}

#[test]
fn text() {
    run("text", kingserver_fuzz::text);
}

#[test]
fn meta() {
    run("meta", kingserver_fuzz::meta);
}

#[test]
fn binary() {
    run("binary", kingserver_fuzz::binary);
}
