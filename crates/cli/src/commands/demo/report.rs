//! The demo's last words: a table for people, one JSON object for programs.

use std::time::Duration;

use serde_json::{Value, json};

use crate::commands::demo::ledger::Verdict;
use crate::table::Facts;
use crate::units;

/// What the demo did beside the messages.
#[derive(Debug, Clone)]
pub struct Failover {
    /// The node that led the queue and was killed.
    pub node: u64,
    /// The node that leads it at the end.
    pub leader_after: Option<u64>,
}

/// The table.
pub fn text(verdict: &Verdict, failover: &Failover) -> String {
    let mut facts = Facts::default();
    let count = units::count;
    facts
        .fact("confirmed", count(verdict.confirmed))
        .fact("delivered", count(verdict.delivered))
        .fact("lost", count(verdict.lost))
        .fact("duplicated", count(verdict.duplicates))
        .fact("redelivered", format!("{} (ack not confirmed before)", count(verdict.redelivered)))
        .fact("messages/s", count(verdict.messages_per_s() as u64))
        .fact("confirm p50", units::duration(verdict.confirm_p50))
        .fact("confirm p99", units::duration(verdict.confirm_p99))
        .fact("first confirm", units::duration(verdict.first_confirm))
        .fact("longest gap", format!("{} at the failover", units::duration(verdict.longest_gap)))
        .fact("killed -9", format!("node {}, the leader", failover.node));
    if verdict.acks_unconfirmed > 0 {
        facts.fact(
            "acks",
            format!("{} not confirmed at the failover", count(verdict.acks_unconfirmed)),
        );
    }
    if verdict.unconfirmed > 0 {
        facts.fact(
            "unconfirmed",
            format!("{}: refused, nothing promised", count(verdict.unconfirmed)),
        );
    }
    if verdict.strange > 0 {
        facts.fact("strange", format!("{}: match nothing published", count(verdict.strange)));
    }
    facts.to_string()
}

/// The object.
pub fn json(verdict: &Verdict, failover: &Failover) -> Value {
    json!({
        "confirmed": verdict.confirmed,
        "delivered": verdict.delivered,
        "lost": verdict.lost,
        "duplicates": verdict.duplicates,
        "redelivered": verdict.redelivered,
        "unconfirmed": verdict.unconfirmed,
        "acks_unconfirmed": verdict.acks_unconfirmed,
        "strange": verdict.strange,
        "messages_per_s": round(verdict.messages_per_s()),
        "confirm_p50_ms": millis(verdict.confirm_p50),
        "confirm_p99_ms": millis(verdict.confirm_p99),
        "first_confirm_ms": millis(verdict.first_confirm),
        "longest_gap_ms": millis(verdict.longest_gap),
        "publishing_ms": millis(verdict.publishing),
        "consuming_ms": millis(verdict.consuming),
        "killed_node": failover.node,
        "leader_after": failover.leader_after,
    })
}

fn millis(span: Duration) -> f64 {
    round(span.as_secs_f64() * 1000.0)
}

fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::commands::demo::ledger::Ledger;

    #[test]
    fn the_object_has_the_promised_fields() {
        let ledger = Ledger::new(1);
        ledger.attempted(0, 1);
        ledger.confirmed(0, Instant::now());
        ledger.delivered(0, 1, 0, 1);
        let object = json(&ledger.verdict(), &Failover { node: 2, leader_after: Some(1) });
        for field in [
            "confirmed",
            "delivered",
            "lost",
            "duplicates",
            "messages_per_s",
            "confirm_p50_ms",
            "confirm_p99_ms",
            "longest_gap_ms",
        ] {
            assert!(object[field].is_number(), "{field} in {object}");
        }
        assert_eq!((&object["confirmed"], &object["lost"]), (&json!(1), &json!(0)));
    }
}
