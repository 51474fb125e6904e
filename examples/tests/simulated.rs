//! The test of docs/SIMULATION.md, as it stands there. Without `--cfg madsim` there is nothing in it.

#![cfg(madsim)]

use quorate_client::Message;
use quorate_sim::simulate;

#[test]
fn an_order_survives_the_loss_of_the_leader() {
    simulate(1..=50, |cluster| async move {
        let client = cluster.client().await;
        client.create_queue("orders", Default::default()).await.unwrap();
        let producer = client.producer("orders").build().await.unwrap();
        let group = client.describe_queue("orders").await.unwrap().group_id;
        cluster.kill(cluster.leader(group).unwrap());
        producer.publish(Message::new("one coffee")).await.unwrap();
    });
}
