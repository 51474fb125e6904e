//! One behaviour for all disks and all small stores.

use std::io::ErrorKind;
use std::sync::Arc;

use quorate_storage::disk::{AlignedBuffer, BLOCK};
use quorate_storage::{Disk, Meta, Opened, RealDisk, SimDisk, SimMeta, SledMeta};

fn block(fill: u8) -> AlignedBuffer {
    let mut buffer = AlignedBuffer::new();
    buffer.resize(BLOCK);
    buffer.as_mut_slice().fill(fill);
    buffer
}

fn disk_conforms(disk: &dyn Disk) {
    let len = 4 * BLOCK as u64;
    let file = disk.create("a", len, &|| true).expect("create");
    assert_eq!(file.len(), len);
    let mut buffer = vec![1; BLOCK];
    file.read_at(BLOCK as u64, &mut buffer).expect("read zeros");
    assert!(buffer.iter().all(|byte| *byte == 0));
    file.write_durable(BLOCK as u64, block(7).as_slice()).expect("write");
    file.sync().expect("sync");
    let mut across = [9; 10];
    file.read_at(BLOCK as u64 - 5, &mut across).expect("read across");
    assert_eq!(across, [0, 0, 0, 0, 0, 7, 7, 7, 7, 7]);
    let beyond = file.read_at(len - 5, &mut across).expect_err("beyond the end");
    assert_eq!(beyond.kind(), ErrorKind::UnexpectedEof);
    disk.rename("a", "b").expect("rename");
    disk.sync_dir().expect("sync directory");
    file.write_durable(0, block(3).as_slice()).expect("an open file outlives its name");
    let again = disk.open("b").expect("open");
    again.read_at(0, &mut across).expect("read");
    assert_eq!(across, [3; 10]);
    assert_eq!(disk.list().expect("list"), ["b"]);
    assert_eq!(disk.open("a").err().map(|error| error.kind()), Some(ErrorKind::NotFound));
    disk.write_unflushed("c", &[5; 700]).expect("write a small file");
    disk.write_unflushed("c", &[6; 600]).expect("replace it");
    let small = disk.open("c").expect("open");
    assert_eq!(small.len(), 600);
    small.read_at(590, &mut across).expect("read");
    assert_eq!(across, [6; 10]);
    let large = disk.create("d", 64 * BLOCK as u64, &|| true).expect("create");
    for fill in 0..64 {
        large.write_durable(fill * BLOCK as u64, block(fill as u8).as_slice()).expect("write");
    }
    for (offset, len) in
        [(5, 10), (BLOCK - 1, 40 * BLOCK), (17 * BLOCK, 20 * BLOCK), (1, 64 * BLOCK - 1)]
    {
        let read = large.read(offset as u64, len).expect("read");
        assert_eq!(read.len(), len);
        let mut expected = (offset..offset + len).map(|at| (at / BLOCK) as u8);
        assert!(
            read.iter().all(|byte| Some(*byte) == expected.next()),
            "{len} bytes from {offset}"
        );
    }
    let beyond = large.read(BLOCK as u64, 64 * BLOCK).expect_err("beyond the end");
    assert_eq!(beyond.kind(), ErrorKind::UnexpectedEof);
    disk.remove("d").expect("remove");
    disk.remove("c").expect("remove");
    assert!(disk.free_bytes().expect("free bytes") > 0);
    assert_ne!(disk.random(), disk.random());
    disk.remove("b").expect("remove");
    assert!(disk.list().expect("list").is_empty());
}

#[test]
fn simulated_disk_conforms() {
    disk_conforms(&SimDisk::new(1));
}

#[test]
fn real_disk_conforms() {
    let directory = tempfile::tempdir().expect("directory");
    disk_conforms(&RealDisk::open(directory.path().join("new")).expect("open"));
}

#[test]
fn real_disk_without_direct_writes_conforms() {
    let directory = tempfile::tempdir().expect("directory");
    disk_conforms(&RealDisk::open_buffered(directory.path()).expect("open"));
}

fn meta_conforms(meta: Arc<dyn Meta>) {
    let large: Vec<u8> = (0..100_000u32).map(|at| at as u8).collect();
    meta.put(b"k/1", &[b"one"]).expect("put");
    meta.put(b"k/2", &[&large]).expect("put");
    meta.put(b"l", &[b""]).expect("put");
    meta.sync().expect("sync");
    assert_eq!(meta.get(b"k/1").expect("get").as_deref(), Some(b"one".as_slice()));
    assert_eq!(meta.get(b"k/2").expect("get").as_deref(), Some(large.as_slice()));
    assert_eq!(meta.get(b"l").expect("get").as_deref(), Some(b"".as_slice()));
    assert_eq!(meta.get(b"k").expect("get"), None);
    let keys = |prefix: &[u8]| -> Vec<Vec<u8>> {
        meta.scan(prefix).expect("scan").into_iter().map(|(key, _)| key.to_vec()).collect()
    };
    assert_eq!(keys(b"k/"), [b"k/1", b"k/2"]);
    assert_eq!(keys(b"").len(), 3);
    meta.put(b"k/2", &[&large[..50_000]]).expect("shrink");
    meta.put(b"k/1", &[&large]).expect("grow");
    meta.sync().expect("sync");
    meta.sync().expect("sync twice");
    assert_eq!(meta.get(b"k/2").expect("get").map(|value| value.len()), Some(50_000));
    assert_eq!(meta.get(b"k/1").expect("get").as_deref(), Some(large.as_slice()));
    meta.remove(b"k/2").expect("remove");
    assert_eq!(meta.get(b"k/2").expect("get"), None);
    // More than a store writes before it syncs.
    let huge = large.repeat(31);
    for pieces in [[&b"one"[..], b" ", b"value"], [b"head", &huge, b"tail"]] {
        meta.put(b"k/3", &pieces).expect("put pieces");
        meta.sync().expect("sync");
        assert_eq!(meta.get(b"k/3").expect("get").as_deref(), Some(&pieces.concat()[..]));
    }
    assert!(meta.put(&[0; 2000], &[b""]).is_err());
}

#[test]
fn simulated_store_conforms() {
    meta_conforms(Arc::new(SimMeta::new(1)));
}

#[test]
fn sled_store_conforms() {
    let directory = tempfile::tempdir().expect("directory");
    let (meta, opened) = SledMeta::open(directory.path().join("meta")).expect("open");
    assert_eq!(opened, Opened::Fresh);
    meta_conforms(Arc::new(meta));
}
