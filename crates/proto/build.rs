//! Generates the gRPC types with protox, a compiler of protobuf files in Rust: nobody needs protoc.
use prost::Message;
use std::path::PathBuf;

const FILES: [&str; 8] = [
    "quorate/v1/queue.proto",
    "quorate/v1/consumer.proto",
    "quorate/v1/reader.proto",
    "quorate/v1/topic.proto",
    "quorate/v1/explain.proto",
    "quorate/v1/admin.proto",
    "quorate/v1/cluster.proto",
    "quorate/internal/peer.proto",
];

/// The protocol of trace collectors. Not ours, so in no description that a node serves of itself.
const OTLP: &str = "opentelemetry/proto/collector/trace/v1/trace_service.proto";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = PathBuf::from("../../proto");
    println!("cargo:rerun-if-changed={}", root.display());
    let descriptors = protox::compile(FILES, [&root])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    let set = out.join("quorate.fds");
    std::fs::write(&set, descriptors.encode_to_vec())?;
    tonic_build::configure()
        .file_descriptor_set_path(&set)
        .skip_protoc_run()
        .bytes(["."])
        .compile_protos(&FILES.map(|f| root.join(f)), std::slice::from_ref(&root))?;
    let otlp = out.join("otlp.fds");
    std::fs::write(&otlp, protox::compile([OTLP], [&root])?.encode_to_vec())?;
    tonic_build::configure()
        .file_descriptor_set_path(&otlp)
        .skip_protoc_run()
        .bytes(["."])
        .compile_protos(&[root.join(OTLP)], &[root])?;
    Ok(())
}
