//! What a node tells of itself by the standard services: server reflection, and health (see
//! [`health`](crate::health)).
//!
//! They are code of others that the simulated transport does not take.

use std::sync::Arc;

use tonic::service::Routes;
use tonic_health::pb::health_server::HealthServer;

use crate::health::HealthService;
use crate::member::Member;
use crate::server::StartError;

/// The longest request for a health check: a service's name, or a queue's behind `queue/`.
const HEALTH_REQUEST_BYTES_MAX: usize = 1024;

pub(crate) fn add(routes: Routes, member: &Arc<Member>) -> Result<Routes, StartError> {
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(quorate_proto::FILE_DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .map_err(|error| StartError::Reflection(error.to_string()))?;
    // A watch keeps the name that it was asked about.
    let health = HealthServer::new(HealthService(member.clone()))
        .max_decoding_message_size(HEALTH_REQUEST_BYTES_MAX);
    Ok(routes.add_service(health).add_service(reflection))
}
