//! What is told of a connection: to `stats conns`, to watchers, in messages.

use super::super::log;
use super::*;
use std::fmt::Write as _;

impl Connection {
    /// `stats conns` of it: lines about its descriptor.
    pub fn describe(&self, now: u64, unix: &str, out: &mut String) {
        let state = match (&self.state, self.waiting) {
            (State::Watch(_), _) => "conn_watch",
            (State::Swallow(_) | State::SkipLine, _) => "conn_swallow",
            (State::Gather(_) | State::Upload(_), _) => "conn_nread",
            (_, Waiting::Peer | Waiting::Close) => "conn_mwrite",
            (State::Errand(_), _) => "conn_parse_cmd",
            (_, Waiting::Input) => "conn_read",
            _ => "conn_io_pending",
        };
        let address = |address: std::io::Result<_>| match address {
            Ok(address) => format!("tcp:{address}"),
            Err(_) => format!("unix:{unix}"),
        };
        let (fd, idle) = (self.fd(), (now as u32).wrapping_sub(self.active));
        // Writing into a String cannot fail.
        let _ = write!(
            out,
            "STAT {fd}:addr {}\r\nSTAT {fd}:listen_addr {}\r\nSTAT {fd}:state {state}\r\nSTAT {fd}:secs_since_last_cmd {idle}\r\n",
            address(self.stream.peer()),
            address(self.stream.local()),
        );
    }

    /// Its client has named himself wrongly, if he has just done so: for who looks for guessers, whom the port tells nothing.
    #[cold]
    pub(super) fn tell_denied(&self, ctx: &mut Context) {
        static LIMIT: log::Limit = log::Limit::new();
        if std::mem::take(&mut ctx.denied) && LIMIT.admits() {
            log::answer(log::Level::Warn, &format_args!("authentication failed for client {}", self.client()));
        }
    }

    /// Its client wants so many messages.
    #[cold]
    pub(super) fn set_verbosity(&self, level: u32) {
        let before = log::enabled(log::Level::Debug);
        log::set_verbosity(level.min(255) as u8);
        if before != log::enabled(log::Level::Debug) {
            let what = if before { "off" } else { "on" };
            // Whoever was shown those is shown this.
            log::put(log::Level::Info, &format!("client {} has switched debug messages {what}", self.client()));
        }
    }

    /// Whose it is.
    fn client(&self) -> String {
        match self.stream.peer() {
            Ok(peer) => peer.ip().to_canonical().to_string(),
            Err(error) if error.kind() == ErrorKind::NotConnected => "that is gone".to_owned(),
            Err(_) => "on a local socket".to_owned(),
        }
    }

    /// How it came to its end, for messages.
    pub fn ending(&self) -> &'static str {
        match (self.waiting, self.inbound) {
            (Waiting::Close, Inbound::Ended) => "closed by the client",
            (Waiting::Close, _) => "closed after its last reply",
            _ => "lost",
        }
    }

    /// The same as watchers are told.
    pub fn reason(&self) -> &'static str {
        match (self.waiting, self.inbound) {
            (Waiting::Close, Inbound::Ended) => "normal",
            (Waiting::Close, _) if self.quits => "normal",
            (Waiting::Input, Inbound::Drained) => "idle_timeout",
            _ => "error",
        }
    }
}
