//! The crates `memcache` (text, or binary by its URL) and `async-memcached` (text and meta), each with its own defaults: `fill`
//! stores, `check` fetches what was stored before.
//!
//! usage: kingserver-clients memcache|memcache-ascii|async-memcached fill|check HOST:PORT

use async_memcached::{AsciiProtocol, Client as AsyncClient, MetaProtocol};
use memcache::{Client, MemcacheError};

const SIZES: [usize; 7] = [1, 100, 4096, 65_536, 65_537, 200_000, 1_000_000];

/// Repeatable bytes, every value among them.
fn noise(seed: usize, size: usize) -> Vec<u8> {
    let mut state = seed as u32 + 1;
    let mut next = || {
        state = state.wrapping_mul(1_103_515_245).wrapping_add(12_345);
        (state >> 16) as u8
    };
    (0..size).map(|_| next()).collect()
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let [_, client, step, address] = &args[..] else { panic!("see the head of main.rs") };
    let fill = step == "fill";
    match client.as_str() {
        "memcache" => sync(&format!("memcache://{address}"), "b", fill).expect("memcache"),
        "memcache-ascii" => sync(&format!("memcache://{address}?protocol=ascii"), "t", fill).expect("memcache, ascii"),
        "async-memcached" => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(asynchronous(address, fill)).expect("async-memcached");
        }
        other => panic!("no such client: {other}"),
    }
}

fn sync(url: &str, prefix: &str, fill: bool) -> Result<(), MemcacheError> {
    let client = Client::connect(url)?;
    let name = |what: &str| format!("{prefix}-{what}");
    if fill {
        for size in SIZES {
            client.set(&name(&size.to_string()), &noise(size, size)[..], 0)?;
        }
        client.set(&name("a"), "1", 0)?;
        // In text it takes the refusal for success.
        let _ = client.add(&name("a"), "2", 0);
        assert_eq!(client.get::<String>(&name("a"))?.as_deref(), Some("1"));
        client.replace(&name("a"), "3", 0)?;
        client.append(&name("a"), ">")?;
        client.prepend(&name("a"), "<")?;
        assert_eq!(client.get::<String>(&name("a"))?.as_deref(), Some("<3>"));
        client.set(&name("n"), 40, 0)?;
        assert_eq!((client.increment(&name("n"), 2)?, client.decrement(&name("n"), 50)?), (42, 0));
        assert!(client.touch(&name("a"), 1000)? && !client.touch(&name("absent"), 1000)?);
        let keys = [name("a"), name("absent"), name("1")];
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        let found = client.gets::<(Vec<u8>, u32, Option<u64>)>(&keys)?;
        assert_eq!(found.len(), 2);
        let unique = found[keys[0]].2.expect("a unique");
        assert!(client.cas(keys[0], "4", 0, unique)? && !client.cas(keys[0], "5", 0, unique)?);
        assert!(client.delete(keys[0])? && !client.delete(keys[0])?);
        assert!(!client.version()?.is_empty() && !client.stats()?.is_empty());
    }
    for size in SIZES {
        let found = client.get::<Vec<u8>>(&name(&size.to_string()))?;
        assert!(found.as_deref() == Some(&noise(size, size)[..]), "{size} bytes");
    }
    Ok(())
}

async fn asynchronous(address: &str, fill: bool) -> Result<(), async_memcached::Error> {
    let mut client = AsyncClient::new(format!("tcp://{address}")).await?;
    if fill {
        for size in SIZES {
            client.set(&format!("a-{size}"), &noise(size, size)[..], None, None).await?;
        }
        assert!(client.add("a-a", "1", None, None).await.is_ok() && client.add("a-a", "2", None, None).await.is_err());
        client.set("a-n", "40", None, Some(7)).await?;
        assert_eq!((client.increment("a-n", 2).await?, client.decrement("a-n", 50).await?), (42, 0));
        assert_eq!(client.get_multi(["a-a", "a-absent", "a-n"]).await?.len(), 2);
        client.delete("a-a").await?;
        assert!(client.get("a-a").await?.is_none());
        client.meta_set("a-m", "meta", false, None, Some(&["T1000", "F5"])).await?;
        let found = client.meta_get("a-m", false, None, Some(&["v", "f", "t"])).await?.expect("a value");
        assert_eq!((found.data.as_deref(), found.flags), (Some(&b"meta"[..]), Some(5)));
        client.meta_increment("a-k", false, None, None, Some(&["N0", "J10"])).await?;
        client.meta_delete("a-m", false, None, None).await?;
        assert!(client.meta_get("a-m", false, None, Some(&["v"])).await?.is_none());
        assert!(!client.version().await?.is_empty() && !client.stats().await?.is_empty());
    }
    for size in SIZES {
        let found = client.get(format!("a-{size}")).await?.expect("a value");
        assert!(found.data.as_deref() == Some(&noise(size, size)[..]), "{size} bytes");
    }
    Ok(())
}
