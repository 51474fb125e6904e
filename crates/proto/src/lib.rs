//! Types generated from `proto/`, and the codec of the message frame that they carry.
//!
//! `v1` is the public API, `internal` is spoken between nodes of one cluster, `otlp` to a trace collector. The generated code is
//! documented by the comments of the proto files.

pub mod dead_letter;
pub mod frame;
pub mod otlp;
pub mod reason;
pub mod settings;
pub mod sharding;

/// The public API, package `quorate.v1`.
#[allow(missing_docs, clippy::all)]
pub mod v1 {
    tonic::include_proto!("quorate.v1");
}

/// Between nodes of one cluster, package `quorate.internal`.
#[allow(missing_docs, clippy::all)]
pub mod internal {
    tonic::include_proto!("quorate.internal");
}

/// All proto files as an encoded `google.protobuf.FileDescriptorSet`, for server reflection.
pub const FILE_DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/quorate.fds"));
