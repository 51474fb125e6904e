//! Where a node is: `host:port`, parsed once at the edge.

use std::fmt;

/// A node's gRPC endpoint as `host:port`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Address(String);

impl Address {
    /// Takes `host:port` and `http://host:port`, with or without a slash at the end.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let text = text.trim();
        if text.starts_with("https://") {
            return Err("TLS is not supported: write host:port");
        }
        let text = text.strip_prefix("http://").unwrap_or(text);
        let text = text.strip_suffix('/').unwrap_or(text);
        let (host, port) = text.rsplit_once(':').ok_or("no port: write host:port")?;
        if host.is_empty() || host.contains(['/', '@', ' ']) {
            return Err("not a host: write host:port");
        }
        if port.parse::<u16>().map_or(true, |port| port == 0) {
            return Err("not a port from 1 to 65535: write host:port");
        }
        Ok(Self(text.to_owned()))
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.0)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_spellings_name_the_same_node() {
        for text in ["node-1:7100", "http://node-1:7100", "http://node-1:7100/", " node-1:7100 "] {
            assert_eq!(Address::parse(text).unwrap().to_string(), "node-1:7100");
        }
        assert_eq!(Address::parse("[::1]:7100").unwrap().url(), "http://[::1]:7100");
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in ["", "node", "node:", "node:0", "node:70000", ":7100", "https://node:7100"] {
            assert!(Address::parse(text).is_err(), "{text:?} was taken");
        }
    }
}
