//! The load generator against servers that behave, and ones that do not.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::rc::Rc;
use std::thread;

use super::*;
use crate::wire::{Dialect, Op, Pool, Work};

const SIZE: usize = 40;
const SHORT: Duration = Duration::from_millis(20);

fn pool() -> Rc<Pool> {
    Rc::new(Pool::new(SIZE))
}

fn plan(op: Op, depth: usize, arrival: Arrival) -> Plan {
    plan_in(Dialect::Text, op, depth, arrival)
}

fn plan_in(dialect: Dialect, op: Op, depth: usize, arrival: Arrival) -> Plan {
    let work = Work { depth, ..Work::single(op, SIZE, 1) };
    let wire = Wire::new(work, dialect, pool());
    Plan { wire, keys: Keys::random(1), arrival, connections: 2, exact: true }
}

/// Answers each get with what `reply` makes of the right reply, until the clients leave.
fn server(reply: impl Fn(Vec<u8>) -> Vec<u8> + Send + Clone + 'static) -> SocketAddr {
    server_in(Dialect::Text, reply)
}

fn server_in(dialect: Dialect, reply: impl Fn(Vec<u8>) -> Vec<u8> + Send + Clone + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let reply = reply.clone();
            thread::spawn(move || answer(stream.unwrap(), dialect, reply));
        }
    });
    address
}

fn answer(mut stream: TcpStream, dialect: Dialect, reply: impl Fn(Vec<u8>) -> Vec<u8>) {
    let (mut request, mut right) = (Vec::new(), Vec::new());
    let wire = plan_in(dialect, Op::Get, 1, Arrival::Closed).wire;
    wire.request(&mut Keys::random(1), &mut request);
    wire.reply(&mut Keys::random(1), &mut right);
    // One key, so all requests are the same.
    while stream.read_exact(&mut request).is_ok() && stream.write_all(&reply(right.clone())).is_ok() {}
}

fn error_of(reply: impl Fn(Vec<u8>) -> Vec<u8> + Send + Clone + 'static) -> String {
    error_in(Dialect::Text, reply)
}

fn error_in(dialect: Dialect, reply: impl Fn(Vec<u8>) -> Vec<u8> + Send + Clone + 'static) -> String {
    let plan = plan_in(dialect, Op::Get, 1, Arrival::Closed);
    let mut load = Load::connect(server_in(dialect, reply), vec![plan]).unwrap();
    let outcome = load.run(PATIENCE).and_then(|()| load.drain(PATIENCE));
    format!("{:#}", outcome.unwrap_err())
}

#[test]
fn right_replies_are_counted_pipelined_or_not() {
    for depth in [1, 16] {
        let address = server(|reply| reply);
        let mut load = Load::connect(address, vec![plan(Op::Get, depth, Arrival::Closed)]).unwrap();
        while !load.is_enough() {
            load.run(SHORT).unwrap();
        }
        load.drain(PATIENCE).unwrap();
        let done = load.done().next().unwrap();
        let batches = done.latency.len();
        assert!((done.ops - (batches as usize * depth) as f64).abs() < 0.01, "{} ops", done.ops);
        assert_eq!(done.unanswered, 0);
    }
}

#[test]
fn an_error_instead_of_a_value_ends_the_run() {
    let said = error_of(|_| b"SERVER_ERROR out of memory\r\n".to_vec());
    assert!(said.contains("wrong reply") && said.contains("out of memory"), "{said}");
    assert!(error_of(|_| b"END\r\n".to_vec()).contains("wrong reply"));
}

#[test]
fn a_wrong_value_ends_the_run() {
    let said = error_of(|mut reply| {
        let last = reply.len() - b"x\r\nEND\r\n".len();
        reply[last] ^= 1;
        reply
    });
    assert!(said.contains("wrong value"), "{said}");
}

#[test]
fn a_binary_reply_may_have_any_cas_and_nothing_else() {
    let address = server_in(Dialect::Binary, |mut reply| {
        reply[16..24].fill(7);
        reply
    });
    let mut load = Load::connect(address, vec![plan_in(Dialect::Binary, Op::Get, 16, Arrival::Closed)]).unwrap();
    load.once().unwrap();
    assert_eq!(load.done().next().unwrap().latency.len(), 2);
    // Magic, status; opaque, flags, value.
    for (index, what) in
        [(0, "wrong reply"), (7, "wrong reply"), (15, "wrong value"), (27, "wrong value"), (28, "wrong value")]
    {
        let said = error_in(Dialect::Binary, move |mut reply| {
            reply[index] ^= 1;
            reply
        });
        assert!(said.contains(what), "byte {index}: {said}");
    }
}

#[test]
fn too_long_a_reply_ends_the_run() {
    let said = error_of(|mut reply| {
        reply.extend_from_slice(b"more");
        reply
    });
    assert!(said.contains("nobody asked for") || said.contains("wrong reply"), "{said}");
}

#[test]
fn a_closed_connection_ends_the_run() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let closer = thread::spawn(move || (0..2).for_each(|_| drop(listener.accept().unwrap())));
    let mut load = Load::connect(address, vec![plan(Op::Get, 1, Arrival::Closed)]).unwrap();
    closer.join().unwrap();
    load.run(PATIENCE).unwrap_err();
}

#[test]
fn an_open_loop_keeps_its_schedule_whatever_the_replies_do() {
    let mut group = Group::new(plan(Op::Get, 1, Arrival::Open(1000.0)), 10);
    group.reset(5_000_000);
    assert_eq!(group.take_due(4_999_999), None);
    // Nothing was answered, time went on: all that was due meanwhile is sent, as of when it was due.
    let due: Vec<_> = std::iter::from_fn(|| group.take_due(8_000_000)).collect();
    assert_eq!(due, [(10, 5_000_000), (11, 6_000_000), (10, 7_000_000), (11, 8_000_000)]);
}

#[test]
fn what_is_never_answered_counts_as_late() {
    let address = server(|_| Vec::new());
    let mut load = Load::connect(address, vec![plan(Op::Get, 1, Arrival::Open(1000.0))]).unwrap();
    load.run(SHORT).unwrap();
    load.drain(SHORT).unwrap();
    let done = load.done().next().unwrap();
    assert!(done.unanswered > 0);
    assert_eq!(done.latency.len(), done.unanswered);
}

#[test]
fn once_is_one_batch_on_each_connection() {
    let mut load = Load::connect(server(|reply| reply), vec![plan(Op::Get, 1, Arrival::Idle)]).unwrap();
    load.run(SHORT).unwrap();
    assert_eq!(load.done().next().unwrap().latency.len(), 0);
    load.once().unwrap();
    assert_eq!(load.done().next().unwrap().latency.len(), 2);
}
