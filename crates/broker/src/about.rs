//! What a node tells of itself by the standard services: server reflection, and health.
//!
//! They are code of others that the simulated transport does not take.

use std::sync::Arc;

use tonic::service::Routes;

use crate::member::Member;
use crate::server::StartError;

pub(crate) fn add(routes: Routes, member: &Arc<Member>) -> Result<Routes, StartError> {
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(quorate_proto::FILE_DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .map_err(|error| StartError::Reflection(error.to_string()))?;
    let (health, health_service) = tonic_health::server::health_reporter();
    tokio::spawn(report_health(member.clone(), health));
    Ok(routes.add_service(health_service).add_service(reflection))
}

/// Time between two looks at the node's health.
const HEALTH_EVERY: std::time::Duration = std::time::Duration::from_millis(500);

/// Whether the catalog has a leader that is there and, where that is this node, a majority that follows
/// it: without one, neither a leader nor a follower learns by itself that nobody leads any more.
pub(crate) fn has_majority(member: &Member) -> bool {
    let leadership = member.catalog.leadership();
    if !leadership.leads {
        return leadership.leader.is_some_and(|leader| !member.connections.lost(leader));
    }
    let progress = member.catalog.progress();
    let voters = progress.iter().filter(|seen| seen.voter).map(|seen| seen.node);
    let (there, away): (Vec<u64>, Vec<u64>) =
        voters.partition(|node| *node == member.id() || member.connections.reachable(*node));
    there.len() > away.len()
}

/// Serving while the catalog has a leader with a majority, and the node is not ending.
async fn report_health(member: Arc<Member>, health: tonic_health::server::HealthReporter) {
    use tonic_health::ServingStatus;
    loop {
        let ends = member.shutdown.is_said();
        let serves = !ends && has_majority(&member);
        let status = if serves { ServingStatus::Serving } else { ServingStatus::NotServing };
        for service in [
            "",
            "quorate.v1.QueueService",
            "quorate.v1.ConsumerService",
            "quorate.v1.ReaderService",
        ] {
            health.set_service_status(service, status).await;
        }
        if ends {
            return;
        }
        tokio::select! {
            biased;
            () = member.shutdown.said() => {}
            () = tokio::time::sleep(HEALTH_EVERY) => {}
        }
    }
}
