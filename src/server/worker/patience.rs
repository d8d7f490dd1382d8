//! Where the loop's patience ends: with connections that are silent, with requests that do not get on, and with uploads
//! in parts that nobody adds to.

use super::*;

impl Worker {
    /// Closes from the head of the list of activity what has been silent for too long.
    pub(super) fn close_idle(&mut self) {
        let (Some(timeout), second) = (self.idle_timeout, self.second) else {
            return;
        };
        while let Some((token, active)) = self.table.oldest() {
            if second.wrapping_sub(active) < timeout {
                return;
            }
            match self.table.get(token).is_some_and(|connection| connection.waits_for_server()) {
                true => self.table.touch(token, second),
                false => {
                    log::debug(format_args!("connection {}/{token}: idle for {timeout} s", self.ctx.worker));
                    self.ctx.count(Counter::IdleKicks);
                    self.close(token);
                }
            }
        }
    }

    /// Once a second: closes whom the rest of a command, or of 64 KiB of a value, takes too long, and gives up uploads in
    /// parts that nobody adds to.
    pub(super) fn watch_second(&mut self) {
        self.watched = self.second;
        if self.minds_uploads() {
            let Shared { multiparts, memory, settings, .. } = &*self.ctx.shared;
            let gone = multiparts.expire(self.ctx.now.saturating_sub(settings.upload_timeout.as_secs()), memory);
            if gone > 0 {
                log::debug(format_args!("{gone} uploads in parts given up: nobody has added to them"));
            }
        }
        let Some(timeout) = self.request_timeout.filter(|_| self.midway > 0) else { return };
        let second = self.second;
        let tokens: Vec<Token> = self.table.tokens().collect();
        for token in tokens {
            let Some(connection) = self.table.get(token).filter(|connection| connection.ledger.midway) else {
                continue;
            };
            // Both are cut off: one second between them may be a moment.
            if !connection.has_taken_more(second) && second.wrapping_sub(connection.ledger.since) > timeout {
                log::debug(format_args!("connection {}/{token}: no whole request in {timeout} s", self.ctx.worker));
                self.ctx.count(Counter::IdleKicks);
                self.close(token);
            }
        }
    }

    /// The first worker sees to uploads in parts.
    pub(super) fn minds_uploads(&self) -> bool {
        self.ctx.worker == 0 && !self.ctx.shared.multiparts.is_empty()
    }
}
