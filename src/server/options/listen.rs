//! Listen addresses as people write them: `127.0.0.1`, `0.0.0.0:11211`, `[::1]:11211`, `::1`, `localhost`, `*`; lists
//! with commas.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// The addresses of a list, each with its port if it has one of its own.
pub fn addresses(list: &str) -> Result<Vec<(IpAddr, Option<u16>)>, String> {
    list.split(',').map(|word| address(word.trim())).collect()
}

fn address(word: &str) -> Result<(IpAddr, Option<u16>), String> {
    let whole = host(word).map(|host| (host, None));
    let parts = || {
        let (name, port) = word.rsplit_once(':')?;
        Some((host(name)?, Some(port.parse().ok()?)))
    };
    whole.or_else(|| word.parse::<SocketAddr>().ok().map(|found| (found.ip(), Some(found.port())))).or_else(parts).ok_or_else(|| {
        format!("'{word}' is not an address: give an IP address such as 127.0.0.1, 0.0.0.0:11211 or [::1]:11211 (names are not looked up)")
    })
}

fn host(word: &str) -> Option<IpAddr> {
    match word {
        "localhost" => Some(Ipv4Addr::LOCALHOST.into()),
        "*" => Some(Ipv4Addr::UNSPECIFIED.into()),
        _ => word.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(word).parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_forms() {
        for (word, ip, port) in [
            ("127.0.0.1", "127.0.0.1", None),
            ("0.0.0.0:1", "0.0.0.0", Some(1)),
            ("::1", "::1", None),
            ("[::1]", "::1", None),
            ("[::1]:65535", "::1", Some(65535)),
            ("localhost", "127.0.0.1", None),
            ("localhost:0", "127.0.0.1", Some(0)),
            ("*", "0.0.0.0", None),
            (" *:7 ", "0.0.0.0", Some(7)),
        ] {
            assert_eq!(addresses(word), Ok(vec![(ip.parse().unwrap(), port)]), "{word}");
        }
        assert_eq!(addresses("127.0.0.1,[::1]:5").unwrap().len(), 2);
        for word in ["", "example.org", "1.2.3", "127.0.0.1:65536", "127.0.0.1:", "[::1", "::1]", "127.0.0.1,,::1"] {
            assert!(addresses(word).is_err(), "{word}");
        }
    }
}
