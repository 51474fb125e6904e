//! A message as commands print it: its body, or an object of JSON.

use std::io::Write;

use bytes::Bytes;
use serde_json::{Map, Value};

use crate::args::Format;
use crate::failure::Failure;

/// Prints one message, and flushes: whoever reads gets it at once. `facts` come first in JSON.
pub fn print<const N: usize>(
    format: Format,
    facts: [(&str, Value); N],
    headers: impl IntoIterator<Item = (impl Into<String>, Bytes)>,
    body: &[u8],
) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match format {
        Format::Table => {
            out.write_all(body)?;
            out.write_all(b"\n")?;
        }
        Format::Json => {
            let headers = headers.into_iter().map(|(key, value)| {
                let mut header = Map::new();
                header.insert("key".to_owned(), Value::String(key.into()));
                insert_bytes(&mut header, "value", &value);
                Value::Object(header)
            });
            let mut line = Map::new();
            // What does not apply is left out, such as the shard where there are none.
            let facts = facts.into_iter().filter(|(_, fact)| !fact.is_null());
            line.extend(facts.map(|(name, fact)| (name.to_owned(), fact)));
            line.insert("headers".to_owned(), headers.collect());
            insert_bytes(&mut line, "body", body);
            writeln!(out, "{}", Value::Object(line))?;
        }
    }
    out.flush()?;
    Ok(())
}

/// Text as `name`, other bytes as `name_base64`.
pub fn insert_bytes(object: &mut Map<String, Value>, name: &str, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => object.insert(name.to_owned(), text.into()),
        Err(_) => object.insert(format!("{name}_base64"), base64(bytes).into()),
    };
}

/// RFC 4648, with padding.
pub fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let byte = |at: usize| u32::from(*group.get(at).unwrap_or(&0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..4 {
            let index = (bits >> (18 - 6 * place)) & 63;
            text.push(if place <= group.len() { ALPHABET[index as usize] as char } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_rfc() {
        for (plain, encoded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(plain.as_bytes()), encoded);
        }
        assert_eq!(base64(&[0xff, 0xef, 0xbe]), "/+++");
    }

    #[test]
    fn bytes_that_are_no_text_are_told_apart() {
        let mut object = Map::new();
        insert_bytes(&mut object, "body", b"text");
        insert_bytes(&mut object, "value", &[0xff]);
        let line = Value::Object(object).to_string();
        assert_eq!(line, r#"{"body":"text","value_base64":"/w=="}"#);
    }
}
