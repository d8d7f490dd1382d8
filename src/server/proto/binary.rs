//! The binary dialect, as far as it is spoken: a client that begins in it is told in its own terms that its
//! command is not known, and the connection is closed. It never hangs for want of an answer it understands.

/// The first byte of every binary request.
pub const REQUEST: u8 = 0x80;
/// Length of a request's and a response's header. Bytes.
pub const HEADER: usize = 24;

const RESPONSE: u8 = 0x81;
const UNKNOWN_COMMAND: u8 = 0x81;
const TEXT: &[u8; 15] = b"Unknown command";

/// The answer to a request with this header: status 0x81, with the request's opcode and opaque.
pub fn refusal(request: &[u8; HEADER]) -> [u8; HEADER + TEXT.len()] {
    let mut frame = [0; HEADER + TEXT.len()];
    frame[0] = RESPONSE;
    frame[1] = request[1];
    frame[7] = UNKNOWN_COMMAND;
    frame[11] = TEXT.len() as u8;
    frame[12..16].copy_from_slice(&request[12..16]);
    frame[HEADER..].copy_from_slice(TEXT);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_refusal_echoes_opcode_and_opaque() {
        let mut request = [0; HEADER];
        request[0] = REQUEST;
        request[1] = 0x0b;
        request[12..16].copy_from_slice(b"opaq");
        let frame = refusal(&request);
        assert_eq!(&frame[..8], &[0x81, 0x0b, 0, 0, 0, 0, 0, 0x81]);
        assert_eq!(&frame[8..16], b"\0\0\0\x0fopaq");
        assert_eq!(&frame[16..], b"\0\0\0\0\0\0\0\0Unknown command");
    }
}
