//! The null server, the floor: one edge-triggered epoll loop, recv, send, fixed replies, nothing else.
//! `null PORT SIZE KEYS` looks at a request's first byte, counts bytes until a get of KEYS keys or a
//! set of SIZE bytes is whole, and answers. Keys have the load generator's twelve bytes.

use std::io::{ErrorKind::WouldBlock, Read, Result, Write};
use std::net::{TcpListener, TcpStream};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags as Flags, EpollTimeout};

/// The length of a request and of its reply, and the reply again and again in one piece.
struct Kind(usize, usize, Vec<u8>);

impl Kind {
    fn new(request: usize, reply: &[u8]) -> Kind {
        let times = if reply.len() <= 128 * 1024 { 17 } else { 2 };
        Kind(request, reply.len(), reply.repeat(times))
    }
}

/// A connection: bytes of a request that is not whole yet, bytes owed, sent of the first reply owed.
struct Client(TcpStream, usize, usize, usize, u8);

fn main() -> Result<()> {
    let arguments = std::env::args().filter_map(|text| text.parse().ok());
    let [port, size, keys] = arguments.collect::<Vec<usize>>()[..] else { panic!("usage: null PORT SIZE KEYS") };
    let payload = "x".repeat(size);
    let values = format!("VALUE key:00000000 0 {size}\r\n{payload}\r\n").repeat(keys) + "END\r\n";
    let set = format!("set key:00000000 0 0 {size}\r\n{payload}\r\n");
    let get = "get".len() + " key:00000000".len() * keys + "\r\n".len();
    let kinds = [Kind::new(get, values.as_bytes()), Kind::new(set.len(), b"STORED\r\n")];
    let listener = TcpListener::bind(("127.0.0.1", port as u16))?;
    let epoll = Epoll::new(EpollCreateFlags::empty())?;
    epoll.add(&listener, EpollEvent::new(Flags::EPOLLIN, 0))?;
    let (mut clients, mut buffer) = (vec![None], vec![0; 64 * 1024]);
    let mut events = [EpollEvent::empty(); 256];
    loop {
        let count = epoll.wait(&mut events, EpollTimeout::NONE).unwrap_or(0);
        for event in &events[..count] {
            if event.data() == 0 {
                let client = accept(listener.accept()?.0, &epoll, clients.len() as u64)?;
                clients.push(Some(client));
            } else if let Some(client) = &mut clients[event.data() as usize]
                && serve(client, event.events(), &kinds, &mut buffer).is_err()
            {
                clients[event.data() as usize] = None;
            }
        }
    }
}

fn accept(stream: TcpStream, epoll: &Epoll, token: u64) -> Result<Client> {
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)?;
    let edges = Flags::EPOLLIN | Flags::EPOLLOUT | Flags::EPOLLRDHUP | Flags::EPOLLET;
    epoll.add(&stream, EpollEvent::new(edges, token))?;
    Ok(Client(stream, 0, 0, 0, b'g'))
}

fn serve(client: &mut Client, what: Flags, kinds: &[Kind; 2], buffer: &mut [u8]) -> Result<()> {
    let Client(stream, partial, owed, sent, first) = client;
    let closing = what.intersects(Flags::EPOLLRDHUP | Flags::EPOLLHUP | Flags::EPOLLERR);
    let mut more = what.contains(Flags::EPOLLIN);
    while more || closing {
        let count = match stream.read(buffer) {
            Ok(0) => return Err(WouldBlock.into()),
            Err(error) if error.kind() == WouldBlock => break,
            other => other?,
        };
        more = count == buffer.len();
        if *partial == 0 {
            *first = buffer[0];
        }
        let Kind(request, reply, _) = &kinds[(*first == b's') as usize];
        *owed += (*partial + count) / request * reply;
        *partial = (*partial + count) % request;
    }
    let Kind(_, reply, repeated) = &kinds[(*first == b's') as usize];
    while *owed > 0 {
        let count = match stream.write(&repeated[*sent..repeated.len().min(*sent + *owed)]) {
            Err(error) if error.kind() == WouldBlock => break,
            other => other?,
        };
        (*owed, *sent) = (*owed - count, (*sent + count) % reply);
    }
    Ok(())
}
