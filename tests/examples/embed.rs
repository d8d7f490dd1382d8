//! A store inside a program: put, get, delete, and what survives. Run it twice:
//! `cargo run --example embed -- /tmp/example-store`

use kingdb::{Db, Error, Options, Sync};

fn main() -> Result<(), Error> {
    let path = std::env::args().nth(1).unwrap_or_else(|| "example-store".into());
    let db = Db::open(Options::new(path).sync(Sync::Always).cache_bytes(16 << 20))?;

    let runs = match db.get(b"runs")? {
        Some(count) => String::from_utf8_lossy(&count).parse().unwrap_or(0) + 1,
        None => 1_u64,
    };
    // Under `Sync::Always` it is on the disk when this returns.
    db.put(b"runs", runs.to_string().as_bytes())?;
    println!("run {runs} of this store");

    db.put(b"short-lived", b"...")?;
    println!("deleted what was there: {}", db.delete(b"short-lived")?);
    println!("deleted what was not there: {}", db.delete(b"short-lived")?);
    db.close()
}
