//! Why replicas are where they are: `quorate queue explain`, over the command line.

use std::time::{Duration, Instant};

use quorate_tests::process::{Ended, run};
use quorate_tests::{Cluster, Plan, turn};
use serde_json::{Value, json};

use crate::{HEAVY, SOON};

const QUEUE: &str = "orders";

async fn quorate(cluster: &Cluster, args: &[&str]) -> Ended {
    let server = cluster.addresses().join(",");
    run(&[args, &["--server", &server]].concat(), SOON).await
}

async fn explained(cluster: &Cluster) -> Value {
    let ended = quorate(cluster, &["queue", "explain", QUEUE, "-o", "json"]).await;
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    serde_json::from_str(&ended.out).expect("json")
}

/// Explains until it is as it should be: one node hears of another's end, or of a change, later than this test.
async fn until(cluster: &Cluster, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let begun = Instant::now();
    loop {
        let seen = explained(cluster).await;
        if holds(&seen) {
            return seen;
        }
        assert!(begun.elapsed() < SOON, "{what}: {seen:#}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn node(explained: &Value, id: u64) -> &Value {
    let nodes = explained["nodes"].as_array().expect("nodes");
    nodes.iter().find(|node| node["node_id"] == id).expect("the node is listed")
}

async fn shown(cluster: &Cluster) -> String {
    let ended = quorate(cluster, &["queue", "explain", QUEUE]).await;
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    println!("{}", ended.out);
    ended.out
}

#[test]
fn explain_names_the_rule_for_each_node_and_the_command_that_mends_what_is_broken() {
    turn::alone(HEAVY, async {
        let plan = Plan::of(5).zones(&["a", "a", "b", "b", "c"]);
        let mut cluster = plan.start().await;
        cluster.queue(QUEUE).await;
        let first = explained(&cluster).await;
        assert_eq!((&first["voters"], &first["anew"]), (&json!([1, 3, 5]), &json!([1, 3, 5])));
        assert_eq!((&first["findings"], &first["placement"]), (&json!([]), &json!(0)));
        for (id, role, reason, others) in [
            (1, "voter", "chosen", json!([])),
            (2, "none", "zone_used", json!([1])),
            (3, "voter", "chosen", json!([])),
            (4, "none", "zone_used", json!([3])),
            (5, "voter", "chosen", json!([])),
        ] {
            let seen = node(&first, id);
            assert_eq!((&seen["role"], &seen["reason"]), (&role.into(), &reason.into()), "{seen}");
            assert_eq!(seen["others"], others, "{seen}");
        }
        assert_eq!(first["leader"], first["preferred_leader"]);
        assert!(shown(&cluster).await.contains("where it is"));

        // Against the rules, and mended by the command that is told.
        let replace = ["queue", "replica", "replace", QUEUE, "--from", "5", "--to", "2"];
        assert_eq!(quorate(&cluster, &replace).await.code, Some(0));
        let crowded = until(&cluster, "it moves", |seen| seen["moving"] == false).await;
        assert_eq!(crowded["findings"][0]["kind"], "zone_crowded", "{crowded:#}");
        assert_eq!(
            (&crowded["findings"][0]["to"], &crowded["anew"]),
            (&json!(5), &json!([1, 3, 5]))
        );
        assert_eq!(node(&crowded, 2)["reason"], "stays");
        assert_eq!(node(&crowded, 5)["reason"], "chosen", "it would be");
        shown(&cluster).await;
        let message = crowded["findings"][0]["message"].as_str().expect("a message");
        let command = message.lines().last().expect("a command").trim();
        let args: Vec<&str> = command.split_whitespace().skip(1).collect();
        assert_eq!(quorate(&cluster, &args).await.code, Some(0), "{command}");
        let mended = until(&cluster, "it moves", |seen| seen["moving"] == false).await;
        assert_eq!(mended["findings"], json!([]), "{mended:#}");

        // An observer, and a leader that is not the preferred one.
        let add = ["queue", "replica", "add", QUEUE, "--node", "4", "--observer"];
        assert_eq!(quorate(&cluster, &add).await.code, Some(0));
        let observed = explained(&cluster).await;
        assert_eq!(node(&observed, 4)["reason"], "by_operator");
        let preferred = observed["preferred_leader"].clone();
        let voters = observed["voters"].as_array().expect("voters").clone();
        let other = voters.iter().find(|id| **id != preferred).expect("another").clone();
        let (preferred, to) = (preferred.to_string(), other.to_string());
        let transfer = ["cluster", "transfer-leader", QUEUE, "--to", &to];
        assert_eq!(quorate(&cluster, &transfer).await.code, Some(0));
        until(&cluster, "led elsewhere", |seen| seen["leader"] == other).await;
        assert!(shown(&cluster).await.contains("cluster balance"));
        assert_eq!(quorate(&cluster, &["cluster", "drain", &preferred]).await.code, Some(0));
        let drained = explained(&cluster).await;
        assert_eq!(drained["preferred_leader_reason"], "drained");
        assert_eq!(quorate(&cluster, &["cluster", "undrain", &preferred]).await.code, Some(0));

        // A move that waits for a node which is not there, and a voter that is lost.
        cluster.kill9(2);
        let gone = until(&cluster, "node 2 is gone", |seen| {
            node(seen, 2)["reachable"] == false && node(seen, 2)["away_ms"].is_u64()
        })
        .await;
        assert_eq!(node(&gone, 2)["reason"], "not_there");
        let from = if voters.contains(&json!(1)) { "1" } else { "3" };
        let replace = ["queue", "replica", "replace", QUEUE, "--from", from, "--to", "2"];
        let waits = quorate(&cluster, &[&replace[..], &["--timeout", "1s"]].concat()).await;
        assert_eq!(waits.code, Some(1), "{}", waits.err);
        let waiting = until(&cluster, "it waits", |seen| seen["step"] == "wait").await;
        assert_eq!((&waiting["moving"], &waiting["step_nodes"]), (&json!(true), &json!([2])));
        let lost = waiting["findings"][0].clone();
        assert_eq!(
            (&lost["kind"], &lost["node_id"]),
            (&json!("not_there"), &json!(2)),
            "{waiting:#}"
        );
        assert!(shown(&cluster).await.contains("waits until 2"));
        cluster.start_node(2);
        let done = until(&cluster, "it moves", |seen| seen["moving"] == false).await;
        assert!(node(&done, 2)["role"] == "voter", "{done:#}");
        assert_eq!(done["step"], "unspecified");
        let nowhere = quorate(&cluster, &["queue", "explain", "nowhere"]).await;
        nowhere.refused_with(5, &["QUEUE_NOT_FOUND"]);
    });
}
