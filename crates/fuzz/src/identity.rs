//! `identity.json`, read by opening a data directory that has it.

use std::fs;
use std::path::Path;

use quorate_storage::{DataDir, DirError, Identity};
use serde_json::json;

pub fn check(data: &[u8]) {
    let directory = tempfile::tempdir().expect("a directory for temporary files");
    let path = directory.path();
    if let Ok(identity) = open(path, data) {
        let given: serde_json::Value = serde_json::from_slice(data).expect("it was read");
        assert_eq!(given["format_version"], 1, "the only version that is known");
        let mut again = serde_json::to_value(&identity).expect("an identity is plain");
        again["format_version"] = 1.into();
        let reopened = open(path, again.to_string().as_bytes());
        assert_eq!(reopened.expect("what was written is read"), identity);
    }
}

fn open(path: &Path, identity: &[u8]) -> Result<Identity, DirError> {
    fs::write(path.join("identity.json"), identity).expect("write a small file");
    match DataDir::open(path) {
        Ok(opened) => Ok(opened.identity().clone()),
        // Anything else would send its reader astray: the file is there.
        Err(error @ (DirError::IdentityDamaged { .. } | DirError::NewerFormat { .. })) => {
            Err(error)
        }
        Err(error) => panic!("{error}"),
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    let cluster = "ff79a6e162bfbf0fa5c5be43cddc4d6b";
    let whole = json!({
        "format_version": 1, "cluster_id": cluster, "node_id": 1,
        "incarnation": 1_521_962_388_963_091_940u64, "joined": true,
    });
    let mut older = whole.clone();
    older["format_version"] = 0.into();
    let mut newer = whole.clone();
    newer["format_version"] = 2.into();
    newer["more"] = json!([{ "nested": null }]);
    let first = format!(
        "{{\n  \"format_version\": 1,\n  \"cluster_id\": \"{cluster}\",\n  \"node_id\": 1,\n  \
         \"incarnation\": 7\n}}\n"
    );
    let versions = [0u64, 1, u64::from(u32::MAX)];
    let versions = versions.map(|version| json!({ "format_version": version }).to_string());
    let mut seeds = vec![whole.to_string(), older.to_string(), newer.to_string(), first];
    seeds.extend(versions);
    seeds.into_iter().map(String::into_bytes).collect()
}
