//! The OpenTelemetry protocol for traces, version 1.10 of its files: what a collector is sent.
//!
//! The files in `proto/opentelemetry` are those of the OpenTelemetry project, unchanged, under its licence, which is
//! also ours. Their packages refer to each other by their paths, so the modules have the same.

pub use opentelemetry::proto::{collector, common, resource, trace};

// Their comments are not all Markdown.
#[allow(missing_docs, clippy::all, rustdoc::all)]
mod opentelemetry {
    pub mod proto {
        pub mod collector {
            pub mod trace {
                pub mod v1 {
                    tonic::include_proto!("opentelemetry.proto.collector.trace.v1");
                }
            }
        }
        pub mod common {
            pub mod v1 {
                tonic::include_proto!("opentelemetry.proto.common.v1");
            }
        }
        pub mod resource {
            pub mod v1 {
                tonic::include_proto!("opentelemetry.proto.resource.v1");
            }
        }
        pub mod trace {
            pub mod v1 {
                tonic::include_proto!("opentelemetry.proto.trace.v1");
            }
        }
    }
}
