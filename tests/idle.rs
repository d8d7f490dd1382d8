//! What an idle connection costs: at most 256 bytes of user memory, one that was used before included.

mod common;

use common::util::{anonymous_memory, raise_descriptor_limit, wait_until};
use common::{Client, Server};

const CONNECTIONS: usize = 8000;
const LIMIT: u64 = 256;

#[test]
fn eight_thousand_idle_connections() {
    raise_descriptor_limit();
    let server = Server::start(&["-c", "10000", "-t", "2"]);
    let mut c = server.client();
    c.set("a", "x");
    c.set("big", vec![b'x'; 200_000]);
    // What the first connections bring into being once and for all is not the price of the next.
    let mut first: Vec<Client> = (0..50).map(|_| server.client()).collect();
    for c in &mut first {
        assert!(c.get("big").is_some());
    }
    let base = anonymous_memory(server.pid());
    let mut clients: Vec<Client> = (0..CONNECTIONS).map(|_| server.client()).collect();
    wait_until("all are accepted", || c.stat("curr_connections") as usize == CONNECTIONS + 51);
    let fresh = anonymous_memory(server.pid()).saturating_sub(base);
    for c in &mut clients {
        assert_eq!(c.get("a").as_deref(), Some(&b"x"[..]));
    }
    let used = anonymous_memory(server.pid()).saturating_sub(base);
    // A partial command, then its end: the chunk that held it must go back.
    for c in &mut clients {
        c.send("get ");
    }
    let partial = anonymous_memory(server.pid()).saturating_sub(base);
    for c in &mut clients {
        c.send("a\r\n");
        assert_eq!(c.items().len(), 1);
    }
    let each = |bytes: u64| bytes / CONNECTIONS as u64;
    println!("bytes per idle connection: {} fresh, {} after a get", each(fresh), each(used));
    println!("bytes per connection with a partial command: {}", each(partial));
    assert!(each(fresh) <= LIMIT, "{} bytes per fresh connection", each(fresh));
    assert!(each(used) <= LIMIT, "{} bytes per connection after a get", each(used));
    // Again and again: nothing may pile up.
    drop(clients);
    wait_until("all are gone", || c.stat("curr_connections") == 51);
    let clients: Vec<Client> = (0..CONNECTIONS).map(|_| server.client()).collect();
    wait_until("all are accepted", || c.stat("curr_connections") as usize == CONNECTIONS + 51);
    let second = anonymous_memory(server.pid()).saturating_sub(base);
    assert!(second <= partial.max(used) + (1 << 20), "{second} bytes the second time, {used} the first");
    drop(clients);
}
