//! The header by which a trace goes on: `traceparent` of the W3C recommendation "Trace Context", level 1.
//!
//! ```text
//! 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01
//! version   trace id, 16 bytes           span, 8 bytes  flags; 01 = sampled
//! ```
//! Hexadecimal digits are lower case, ids are not zero. A later version is read by the same four fields, and may go on
//! after a dash. Whatever breaks a rule is as good as no header.

/// The trace that a message belongs to, and the span that it was sent under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TraceParent {
    pub(super) trace: [u8; 16],
    pub(super) span: [u8; 8],
    pub(super) flags: u8,
}

impl TraceParent {
    pub(super) const HEADER: &str = "traceparent";
    const SAMPLED: u8 = 1;
    /// Length of version 0, and of what later ones have in common with it.
    const BYTES: usize = 55;
    /// The version that never will be.
    const NO_VERSION: u8 = 0xff;

    pub(super) fn parse(value: &[u8]) -> Option<Self> {
        let (fields, more) = value.split_at_checked(Self::BYTES)?;
        let [version] = hex(&fields[..2])?;
        let goes_on = match version {
            0 => more.is_empty(),
            Self::NO_VERSION => false,
            _ => more.is_empty() || more[0] == b'-',
        };
        let dashes = [2, 35, 52].iter().all(|at| fields[*at] == b'-');
        if !goes_on || !dashes {
            return None;
        }
        let (trace, span) = (hex(&fields[3..35])?, hex(&fields[36..52])?);
        let [flags] = hex(&fields[53..])?;
        let named = trace != [0; 16] && span != [0; 8];
        named.then_some(Self { trace, span, flags })
    }

    pub(super) fn is_sampled(&self) -> bool {
        self.flags & Self::SAMPLED != 0
    }
}

fn hex<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALID: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn parse(text: &str) -> Option<TraceParent> {
        TraceParent::parse(text.as_bytes())
    }

    #[test]
    fn the_fields_are_read() {
        let parent = parse(VALID).expect("valid");
        assert_eq!(u128::from_be_bytes(parent.trace), 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736);
        assert_eq!(u64::from_be_bytes(parent.span), 0x00f0_67aa_0ba9_02b7);
        assert!(parent.is_sampled());
        assert!(!parse(&VALID.replace("-01", "-00")).expect("valid").is_sampled());
        // Other flags say nothing about sampling.
        assert!(!parse(&VALID.replace("-01", "-fe")).expect("valid").is_sampled());
        assert!(parse(&VALID.replace("-01", "-03")).expect("valid").is_sampled());
    }

    #[test]
    fn a_later_version_may_go_on_and_version_0_may_not() {
        let later = VALID.replacen("00", "cc", 1);
        assert!(parse(&later).is_some());
        assert!(parse(&format!("{later}-what.comes")).is_some());
        assert_eq!(parse(&format!("{later}.what.comes")), None);
        assert_eq!(parse(&format!("{VALID}-more")), None);
    }

    #[test]
    fn what_breaks_a_rule_is_no_header() {
        let zeros = VALID.replace("00f067aa0ba902b7", "0000000000000000");
        let no_trace = format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32));
        let wrong = [
            "".to_owned(),
            VALID[..54].to_owned(),
            VALID.to_uppercase(),
            VALID.replacen("00", "ff", 1),
            VALID.replacen('-', "_", 1),
            VALID.replace("-01", "_01"),
            VALID.replace("4bf9", "4bg9"),
            VALID.replace("-01", "-0x"),
            format!(" {VALID}"),
            zeros,
            no_trace,
        ];
        for wrong in wrong {
            assert_eq!(parse(&wrong), None, "{wrong:?}");
        }
    }
}
