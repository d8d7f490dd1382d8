//! A file stored and read back by parts, without ever being in memory as a whole:
//! `cargo run --example parts -- /tmp/example-store FILE`

use std::error::Error;
use std::fs::File;
use std::io::{self, Read};

use kingdb::{Db, Options, View};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().unwrap_or_else(|| "example-store".into());
    let name = arguments.next().unwrap_or_else(|| file!().into());
    let db = Db::open(Options::new(path))?;

    let mut file = File::open(&name)?;
    // How long it will be is said in advance; until `finish` the key has its old value, or none.
    let mut writer = db.writer(name.as_bytes(), file.metadata()?.len())?;
    let mut part = [0; 4096];
    loop {
        match file.read(&mut part)? {
            0 => break,
            count => writer.write_part(&part[..count])?,
        }
    }
    writer.finish()?;

    let mut reader = db.reader(name.as_bytes())?.ok_or("it was just stored")?;
    let mut middle = [0; 16];
    let count = reader.read_at(reader.len() / 2, &mut middle)?;
    println!("{} bytes; in the middle: {}", reader.len(), middle[..count].escape_ascii());
    io::copy(&mut reader, &mut io::sink())?;
    Ok(())
}
