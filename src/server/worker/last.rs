//! A worker's last turns: what was said leaves, and then the connections end.

use super::*;

/// How often a stopping server looks whether it is done.
const STOP_LOOK: Duration = Duration::from_millis(2);
/// How long a stopping server waits for the log and for clients to take their replies.
const STOP_WAIT: Duration = Duration::from_secs(2);

impl Worker {
    /// Nothing is accepted, read or executed any more; what was said leaves as far as the log and the peers
    /// allow within a bounded time.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        self.door.shut(&self.epoll)?;
        self.ctx.db.write_out();
        let end = clock::monotonic() + STOP_WAIT;
        let mut unsent: Vec<_> = self.table.tokens().collect();
        loop {
            unsent.retain(|token| self.send_last(*token));
            let now = clock::monotonic();
            if unsent.is_empty() || now >= end {
                break;
            }
            let events = self.epoll.wait(Some((end - now).min(STOP_LOOK)))?;
            for index in 0..events {
                let event = self.epoll.event(index);
                if let Some(connection) = self.table.get(Token::unpack(event.token)) {
                    connection.note(event);
                }
            }
        }
        let all: Vec<_> = self.table.tokens().collect();
        all.into_iter().filter_map(|token| self.table.remove(token)).for_each(|connection| {
            connection.leave(&mut self.scratch);
        });
        Ok(())
    }

    /// Whether the connection still has something to send.
    fn send_last(&mut self, token: Token) -> bool {
        let (mark, failure) = (self.ctx.db.mark(), self.ctx.db.failure());
        let Some(connection) = self.table.get(token) else {
            return false;
        };
        let mut fate = connection.send(&[], mark, &mut self.pool, &self.ctx);
        if let (Fate::Open, Some(_), Some(why)) = (fate, connection.held_back(), &failure) {
            fate = connection.refuse(why, &mut self.pool, &self.ctx);
        }
        fate == Fate::Open && connection.unsent() > 0
    }
}
