//! A consistent view while writes go on, the same interface for both, and the portable text:
//! `cargo run --example snapshot -- /tmp/example-store`

use kingdb::{Db, Error, Options, View};

/// Works on a store and on a snapshot of one.
fn total(view: &impl View) -> Result<u64, Error> {
    let accounts = view.iter()?.filter(|item| item.as_ref().map_or(true, |item| item.key.starts_with(b"account ")));
    accounts.map(|item| Ok(item?.value.into_bytes()?.iter().map(|&byte| u64::from(byte)).sum::<u64>())).sum()
}

fn main() -> Result<(), Error> {
    let path = std::env::args().nth(1).unwrap_or_else(|| "example-store".into());
    let db = Db::open(Options::new(path))?;
    for (name, balance) in [("account a", 10), ("account b", 20)] {
        db.put(name.as_bytes(), &[balance])?;
    }

    let before = db.snapshot()?;
    db.put(b"account a", &[200])?;
    db.delete(b"account b")?;
    println!("{} before, {} now", total(&before)?, total(&db)?);
    println!("account b had {:?} and has {:?}", before.get(b"account b")?, db.get(b"account b")?);

    kingdb::dump(&before, &mut std::io::stdout(), &mut |_| ())?;
    Ok(())
}
