//! A cursor over the bytes a connection has received and not yet used.

/// See the module's head.
pub struct Input<'a> {
    bytes: &'a [u8],
    used: usize,
}

impl<'a> Input<'a> {
    /// At the first of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, used: 0 }
    }

    /// What is left. The slice outlives the cursor's position, so a command may borrow its key and move on.
    #[inline]
    pub fn rest(&self) -> &'a [u8] {
        &self.bytes[self.used..]
    }

    /// Moves past `n` bytes.
    #[inline]
    pub fn advance(&mut self, n: usize) {
        self.used += n;
        debug_assert!(self.used <= self.bytes.len());
    }

    /// Moves past at most `n` bytes and returns them.
    #[inline]
    pub fn take(&mut self, n: usize) -> &'a [u8] {
        let rest = self.rest();
        let taken = &rest[..rest.len().min(n)];
        self.advance(taken.len());
        taken
    }

    /// Whether nothing is left.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.used == self.bytes.len()
    }

    /// Bytes moved past.
    pub fn used(&self) -> usize {
        self.used
    }
}
