//! A leader that is frozen, succeeded, and thawed: what it still believes has no effect.

use std::time::{Duration, Instant};

use quorate_client::{Client, QueueSettings};
use quorate_proto::v1::consume_response::Response;
use quorate_proto::{reason, v1};
use quorate_tests::raw::{self, RawConsumer};
use quorate_tests::{Cluster, turn};

use crate::HEAVY;

const QUEUE: &str = "orders";
/// How long a consumer's session outlives its stream.
const GRACE_MS: u32 = 500;
/// Nothing may take longer, or it hangs.
const ANSWERED: Duration = Duration::from_secs(20);
/// What a call may be told that a node could not carry out, or does not know to have.
const TYPED: [&str; 4] =
    [reason::NOT_LEADER, reason::NO_QUORUM, reason::UNKNOWN_OUTCOME, reason::SHUTTING_DOWN];

async fn attached(node: &str) -> RawConsumer {
    let begun = Instant::now();
    loop {
        match RawConsumer::attach(node, raw::attach(QUEUE, &raw::session(), 1)).await {
            Ok(consumer) => return consumer,
            Err(status) => {
                assert!(TYPED.contains(&raw::reason(&status).as_str()), "{status:?}");
                assert!(begun.elapsed() < ANSWERED, "{status:?}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

#[test]
fn a_leader_that_was_frozen_and_succeeded_confirms_nothing_and_takes_no_settle_when_it_thaws() {
    turn::alone(HEAVY, async {
        let mut cluster = Cluster::start(3).await;
        let settings = QueueSettings { session_grace_ms: GRACE_MS, ..Default::default() };
        let client = cluster.queue_with(QUEUE, settings).await;
        let old = cluster.leader_of(QUEUE).await;
        let others: Vec<u64> = cluster.ids().into_iter().filter(|id| *id != old).collect();
        let at_old = cluster.address(old);
        let leased = raw::publish(&at_old, QUEUE, "leased", None).await.expect("confirmed");
        let mut first = attached(&at_old).await;
        let under_old = first.delivery().await;
        assert_eq!(under_old.first_offset, leased.first_offset);

        // The old leader takes a publish in, which no majority has, and stands still then. The others are killed, not
        // paused: what waited in their sockets would reach them later.
        others.iter().for_each(|node| cluster.kill9(*node));
        let taken_in = tokio::spawn({
            let at_old = at_old.clone();
            async move { raw::publish(&at_old, QUEUE, "taken in", None).await }
        });
        tokio::time::sleep(Duration::from_millis(150)).await;
        cluster.pause(old);
        // These wait in its sockets until it thaws, and would be carried out by a leader.
        first.settle_later(raw::item(v1::SettleKind::Ack, &under_old, 0)).await;
        let too_late = tokio::spawn({
            let at_old = at_old.clone();
            async move { raw::publish(&at_old, QUEUE, "too late", None).await }
        });
        others.iter().for_each(|node| cluster.start_node(*node));

        let new = cluster.leader_of(QUEUE).await;
        assert_ne!(new, old);
        let at_new = cluster.address(new);
        let mut second = attached(&at_new).await;
        // After the grace the message is somebody else's, who is done with it.
        let under_new = second.delivery().await;
        assert_eq!(under_new.first_offset, under_old.first_offset);
        assert!(under_new.token > under_old.token, "tokens grow");
        let acked = second.settle(raw::item(v1::SettleKind::Ack, &under_new, 0)).await;
        assert!(acked.failure.is_none() && acked.lost.is_empty(), "{acked:?}");

        cluster.resume(old);
        let mut receipts = Vec::new();
        let old_term = leased.position.expect("a position").term;
        for (is_in_old_log, publish) in [(true, taken_in), (false, too_late)] {
            let answer = tokio::time::timeout(ANSWERED, publish).await.expect("it is answered");
            match answer.expect("no panic") {
                // Only from the new leader, to which it was handed on: it is honoured, below.
                Ok(receipt) => {
                    let term = receipt.position.expect("a position").term;
                    assert!(!is_in_old_log && term > old_term, "confirmed: {receipt:?}");
                    receipts.push(receipt);
                }
                Err(status) => {
                    println!("{}", raw::reason(&status));
                    assert!(TYPED.contains(&raw::reason(&status).as_str()), "{status:?}");
                }
            }
        }
        // The settle under the old token: refused by name, or the stream ends and says where to go.
        loop {
            match first.answer().await {
                Ok(Some(Response::Settled(settled))) => {
                    assert!(
                        settled.failure.is_some() || settled.lost.len() == 1,
                        "an ack of the old leader: {settled:?}"
                    );
                    break;
                }
                Ok(Some(Response::Delivery(delivery))) => {
                    assert_ne!(delivery.first_offset, under_old.first_offset, "{delivery:?}");
                }
                Ok(None) => break,
                Ok(other) => {
                    println!("{other:?}");
                    break;
                }
                Err(status) => {
                    assert!(TYPED.contains(&raw::reason(&status).as_str()), "{status:?}");
                    break;
                }
            }
        }
        // Also where it attaches anew, by the old leader's node.
        let mut again = attached(&at_old).await;
        let settled = again.settle(raw::item(v1::SettleKind::Ack, &under_old, 0)).await;
        assert_eq!(settled.lost.len(), 1, "{settled:?}");
        drop(first);

        // What was acked is never delivered again: only what the publishes may have left comes.
        let direct = Client::connect([at_new.clone()]).await.expect("connect");
        let queue = direct.describe_queue(QUEUE).await.expect("describe");
        let counts = queue.counts.expect("counts");
        assert_eq!(counts.acked, 1, "{counts:?}");
        assert_eq!(counts.ready + counts.leased + counts.acked, counts.published, "{counts:?}");
        for consumer in [&mut second, &mut again] {
            let until = Instant::now() + Duration::from_secs(2);
            while let Some(left) = until.checked_duration_since(Instant::now()) {
                let Ok(answer) = tokio::time::timeout(left, consumer.answer()).await else { break };
                if let Ok(Some(Response::Delivery(delivery))) = answer {
                    assert_ne!(delivery.first_offset, under_old.first_offset, "{delivery:?}");
                }
            }
        }
        // And what has a receipt is there.
        let next = raw::publish(&at_new, QUEUE, "next", None).await.expect("confirmed");
        receipts.push(next);
        let mut verifying =
            v1::admin_service_client::AdminServiceClient::new(raw::channel(&at_new));
        let request = v1::VerifyReceiptsRequest { name: QUEUE.into(), receipts };
        let verdicts = verifying.verify_receipts(request).await.expect("verified").into_inner();
        let honoured = i32::from(v1::ReceiptVerdict::Honoured);
        assert!(verdicts.verdicts.iter().all(|verdict| *verdict == honoured), "{verdicts:?}");
        drop(client);
    });
}
