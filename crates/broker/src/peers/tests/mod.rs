//! Real replicas over real connections: what the group crate and this transport do together.

mod cluster;
mod identity;
mod relay;
mod replication;
