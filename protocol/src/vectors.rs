//! The published test vectors of files, sets and frames hold. They were made with another implementation.

use crate::digest::{Digest, RootBuilder, chunk_count, chunk_value, from_hex, to_hex};
use crate::fileset::{FileEntry, set_root};
use crate::frame::{Decoder, Event, FrameError};
use bytes::Bytes;
use serde_json::Value;

const CHUNKS: &str = include_str!("../../docs/vectors/chunks.json");
const FRAMES: &str = include_str!("../../docs/vectors/frames.json");
const SETS: &str = include_str!("../../docs/vectors/set_root.json");

fn list(text: &str, key: &str) -> Vec<Value> {
    serde_json::from_str::<Value>(text).unwrap()[key].as_array().unwrap().clone()
}

fn content(bytes: u64) -> Vec<u8> {
    (0..bytes).map(|i| (i % 251) as u8).collect()
}

#[test]
fn values_of_chunks_combine_to_the_plain_hash() {
    let vectors = list(CHUNKS, "vectors");
    let sizes: Vec<u64> = vectors.iter().map(|v| v["bytes"].as_u64().unwrap()).collect();
    for must in [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1] {
        assert!(sizes.contains(&must), "{must}");
    }
    for (vector, bytes) in vectors.iter().zip(sizes) {
        let data = content(bytes);
        let root: Digest = vector["root"].as_str().unwrap().parse().unwrap();
        assert_eq!(Digest::blake3(&data), root, "{bytes} bytes");
        let values = vector["values"].as_array().unwrap();
        assert_eq!(values.len() as u64, chunk_count(bytes), "{bytes} bytes");
        let mut builder = RootBuilder::new(bytes);
        for (index, value) in (0u64..).zip(values) {
            let from = (index << 20) as usize;
            let chunk = &data[from..data.len().min(from + (1 << 20))];
            let ours = chunk_value(chunk, index, bytes);
            assert_eq!(to_hex(&ours), value.as_str().unwrap(), "chunk {index} of {bytes} bytes");
            builder.push(ours);
        }
        assert_eq!(builder.finish(), Some(root), "{bytes} bytes");
    }
}

#[test]
fn a_set_has_one_root() {
    let vectors = list(SETS, "vectors");
    assert!(vectors.len() >= 2);
    for vector in vectors {
        let file = |file: &Value| {
            let bytes = file["bytes"].as_u64().unwrap();
            let root: Digest = file["root"].as_str().unwrap().parse().unwrap();
            assert_eq!(root, Digest::blake3(&content(bytes)));
            FileEntry { name: file["name"].as_str().unwrap().to_owned(), bytes, root }
        };
        let files: Vec<FileEntry> = vector["files"].as_array().unwrap().iter().map(file).collect();
        assert!(files.windows(2).all(|pair| pair[0].name.as_bytes() < pair[1].name.as_bytes()));
        assert_eq!(set_root(&files).to_string(), vector["set_root"].as_str().unwrap());
    }
}

/// What the bytes say, or why they are refused; the bytes come in pieces of `step`.
fn read(bytes: &[u8], step: usize) -> Result<Vec<String>, FrameError> {
    let mut decoder = Decoder::default().taking_lz4();
    let mut said: Vec<String> = Vec::new();
    for piece in bytes.chunks(step) {
        decoder.push(Bytes::copy_from_slice(piece));
        while let Some(event) = decoder.next()? {
            match event {
                Event::Control(body) => said.push(format!("control {}", to_hex(&body))),
                Event::Manifest(body) => said.push(format!("manifest {}", to_hex(&body))),
                Event::Segment(index) => said.push(format!("segment {index}")),
                Event::Item { index, value, bytes } => said.push(format!("item {index} {} {bytes}", to_hex(&value))),
                // An item's bytes may come in several pieces.
                Event::ItemData(data) => match said.last_mut().filter(|last| last.starts_with("data ")) {
                    Some(last) => *last += &to_hex(&data),
                    None => said.push(format!("data {}", to_hex(&data))),
                },
                Event::Batch(body) => said.push(format!("batch {}", to_hex(&body))),
            }
        }
    }
    decoder.finish().map(|()| said)
}

#[test]
fn frames_say_what_they_say_however_they_are_cut() {
    for vector in list(FRAMES, "good") {
        let bytes = from_hex(vector["hex"].as_str().unwrap()).unwrap();
        let events: Vec<String> = serde_json::from_value(vector["events"].clone()).unwrap();
        for step in [1, 2, 7, 1000] {
            assert_eq!(read(&bytes, step).as_ref(), Ok(&events), "{}", vector["name"]);
        }
    }
}

#[test]
fn what_is_no_frame_is_refused_for_its_reason() {
    for vector in list(FRAMES, "bad") {
        let bytes = from_hex(vector["hex"].as_str().unwrap()).unwrap();
        let found = match read(&bytes, 1).unwrap_err() {
            FrameError::UnknownKind(_) => "unknown_kind",
            FrameError::OutOfBounds { .. } => "out_of_bounds",
            FrameError::NotLz4(_) => "not_lz4",
            FrameError::BadMessage(_) => "bad_message",
            FrameError::Truncated => "truncated",
        };
        assert_eq!(found, vector["error"], "{}", vector["name"]);
    }
}
