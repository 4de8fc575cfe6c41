//! A gateway in memory that speaks the whole protocol of files and rows, honestly or not: what the transfers are tested
//! against.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::connect::Session;
use crate::error::{AgentError, Told};
use crate::outbox::Outbox;
use crate::transfer::{Dial, Env, Expected, Notary, Patience, Roots, values_digest};
use bytes::Bytes;
use lingqu_certs::memory::{MemoryChannel, pair};
use lingqu_certs::os::{OsDisk, SystemClock};
use lingqu_protocol::close::CloseCode;
use lingqu_protocol::digest::{CHUNK_BYTES, Digest, chunk_value};
use lingqu_protocol::fileset::{FileEntry, set_root};
use lingqu_protocol::frame::{self, Event, FrameKind};
use lingqu_protocol::host::Disk;
use lingqu_protocol::ids::GatewayId;
use lingqu_protocol::plan::Plan;
use lingqu_protocol::session::{FrameReader, FrameWriter};
use lingqu_protocol::stream::Channel;
use lingqu_protocol::wire::{self, *};
use prost::Message;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What the gateway does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lie {
    /// Nothing.
    None,
    /// The connection goes away after this many segments, once.
    Lose(u32),
    /// The receipt's answer is lost after the commit, once.
    LoseReceipt,
    /// The permission is suspended after this many segments.
    Suspend(u32),
    /// A byte is not what its value says.
    WrongValue,
    /// A byte and its value are not what the manifest says.
    WrongRoot,
    /// The data streams have another token.
    WrongToken,
    /// Names descend.
    OutOfOrder,
    /// A name climbs.
    Climb,
    /// The control stream ends without an end record.
    NoEnd,
    /// The end record is for other bytes.
    WrongEnd,
    /// The receipt is for another transfer.
    WrongReceipt,
    /// Refuses at once.
    Deny,
}

/// One transfer as the gateway has it.
#[derive(Default)]
pub(crate) struct Held {
    names: Vec<(String, u64)>,
    pub(crate) segments: BTreeMap<u32, (Vec<[u8; 32]>, Vec<u8>)>,
    receipt: Option<Vec<u8>>,
    pub(crate) commits: u32,
}

pub(crate) struct Gateway {
    pub(crate) lie: Mutex<Lie>,
    pub(crate) held: Mutex<HashMap<String, Held>>,
    /// What is served to a pull, names ascending.
    pub(crate) served: Mutex<Vec<(String, Vec<u8>)>>,
    pub(crate) segments_sent: AtomicU32,
    pub(crate) segments_got: AtomicU32,
    pub(crate) cosigned: AtomicU32,
    pub(crate) dials: AtomicU32,
}

impl Gateway {
    pub(crate) fn new(lie: Lie) -> Arc<Self> {
        Arc::new(Self {
            lie: Mutex::new(lie),
            held: Mutex::default(),
            served: Mutex::default(),
            segments_sent: AtomicU32::new(0),
            segments_got: AtomicU32::new(0),
            cosigned: AtomicU32::new(0),
            dials: AtomicU32::new(0),
        })
    }

    pub(crate) fn lie(&self) -> Lie {
        *self.lie.lock().unwrap()
    }

    /// Takes the lie back: it is told once.
    pub(crate) fn honest(&self) {
        *self.lie.lock().unwrap() = Lie::None;
    }

    async fn serve(self: Arc<Self>, channel: MemoryChannel) {
        let Ok((send, recv)) = channel.accept_bi().await else { return };
        let (mut hello_writer, mut hello_reader) = (FrameWriter::new(send), FrameReader::new(recv));
        let _: Hello = hello_reader.expect("Hello").await.unwrap();
        let welcome = Welcome {
            version: 1,
            limits: Some(wire::limits()),
            gateway: GatewayId::from_bits(1).to_string(),
            domain: "test".into(),
            now_ms: chrono::Utc::now().timestamp_millis(),
            ..Welcome::default()
        };
        hello_writer.message(&welcome).await.unwrap();
        while let Ok((send, recv)) = channel.accept_bi().await {
            let (mut writer, mut reader) = (FrameWriter::new(send), FrameReader::new(recv));
            let Ok(request) = reader.expect::<Request>("a request").await else { return };
            let served = match request.ask.unwrap() {
                _ if self.lie() == Lie::Deny => Err(Cut::Fault(CloseCode::Denied)),
                request::Ask::PushFiles(ask) => self.push_files(&channel, ask, &mut writer, &mut reader).await,
                request::Ask::Pull(ask) => self.pull_files(&channel, ask, &mut writer, &mut reader).await,
                other => panic!("not scripted: {other:?}"),
            };
            match served {
                Ok(()) => writer.finish(),
                Err(Cut::Gone) => return,
                Err(Cut::Close) => return channel.close(CloseCode::Draining),
                Err(Cut::Fault(code)) => {
                    let fault = Fault { code: code.code(), word: "scripted".into(), ..Fault::default() };
                    let _ = reply(&mut writer, reply::Reply::Fault(fault)).await;
                    writer.finish();
                }
            }
        }
    }

    async fn push_files(
        self: &Arc<Self>,
        channel: &MemoryChannel,
        ask: PushFiles,
        writer: &mut Writer,
        reader: &mut Reader,
    ) -> Result<(), Cut> {
        let mut names = Vec::new();
        while names.len() < ask.files as usize {
            let Some(Event::Manifest(body)) = reader.next().await? else { panic!("a manifest must come") };
            let part: ManifestPart = wire::decode(body).unwrap();
            names.extend(part.files.into_iter().map(|f| (f.name, f.bytes)));
        }
        assert!(names.is_sorted_by(|a, b| a.0.as_bytes() < b.0.as_bytes()));
        let plan = Arc::new(Plan::new(names.iter().map(|n| n.1).collect()).unwrap());
        assert_eq!(plan.bytes(), ask.bytes);
        let (receipt, durable) = {
            let mut held = self.held.lock().unwrap();
            let held = held.entry(ask.transfer.clone()).or_default();
            held.names = names;
            let durable: Vec<_> = held.segments.iter().map(|(s, (values, _))| (*s, values_digest(values))).collect();
            (held.receipt.clone(), durable)
        };
        if let Some(json) = receipt {
            return self.settle(json, writer, reader).await;
        }
        let ready = PushReady {
            token: Bytes::from_static(b"token"),
            data_streams_max: 3,
            durable_follows: true,
            ..PushReady::default()
        };
        reply(writer, reply::Reply::PushReady(ready)).await?;
        for part in durable.chunks(2) {
            let segments = part.iter().map(|p| p.0).collect();
            let values_digests = part.iter().flat_map(|p| p.1).collect::<Vec<u8>>().into();
            reply(writer, reply::Reply::Durable(Durable { segments, values_digests, last: false })).await?;
        }
        reply(writer, reply::Reply::Durable(Durable { last: true, ..Durable::default() })).await?;
        let mut streams = tokio::task::JoinSet::new();
        let end = self.collect(channel, &ask.transfer, &plan, reader, &mut streams).await;
        // What is durable stands still before anybody hears of the end.
        streams.shutdown().await;
        let json = self.commit(&ask.transfer, &plan, &end?);
        if self.lie() == Lie::LoseReceipt {
            self.honest();
            return Err(Cut::Close);
        }
        self.settle(json, writer, reader).await
    }

    async fn collect(
        self: &Arc<Self>,
        channel: &MemoryChannel,
        transfer: &str,
        plan: &Arc<Plan>,
        reader: &mut Reader,
        streams: &mut tokio::task::JoinSet<Result<(), Cut>>,
    ) -> Result<PushEnd, Cut> {
        let mut end = None;
        loop {
            if let Some(end) = &end
                && self.held.lock().unwrap()[transfer].segments.len() as u32 == plan.segments()
            {
                return Ok(PushEnd::clone(end));
            }
            tokio::select! {
                stream = channel.accept_uni() => {
                    let (gateway, transfer, plan) = (self.clone(), transfer.to_owned(), plan.clone());
                    let stream = stream.map_err(|_| Cut::Gone)?;
                    streams.spawn(async move { gateway.take(stream, transfer, &plan).await });
                }
                Some(done) = streams.join_next() => done.unwrap()?,
                step = reader.expect::<Step>("a step"), if end.is_none() => match step?.step {
                    Some(step::Step::PushEnd(said)) => end = Some(said),
                    other => panic!("not scripted: {other:?}"),
                },
            }
        }
    }

    async fn take(self: Arc<Self>, recv: Recv, transfer: String, plan: &Plan) -> Result<(), Cut> {
        let mut reader = FrameReader::new(recv);
        let hello: DataHello = reader.expect("DataHello").await?;
        assert_eq!((&hello.transfer, &hello.token[..]), (&transfer, &b"token"[..]));
        while let Some(event) = reader.next().await? {
            let Event::Segment(segment) = event else { panic!("a segment must come, not {event:?}") };
            let (mut values, mut bytes) = (Vec::new(), Vec::new());
            for (position, item) in plan.items(segment).unwrap().into_iter().enumerate() {
                let Some(Event::Item { index, value, bytes: len }) = reader.next().await? else {
                    return Err(Cut::Gone);
                };
                assert_eq!((index as usize, len), (position, item.bytes));
                let start = bytes.len();
                while bytes.len() < start + len as usize {
                    let Some(Event::ItemData(piece)) = reader.next().await? else { return Err(Cut::Gone) };
                    bytes.extend_from_slice(&piece);
                }
                assert_eq!(chunk_value(&bytes[start..], item.chunk, plan.sizes()[item.file as usize]), value);
                values.push(value);
            }
            let mut held = self.held.lock().unwrap();
            let again = held.get_mut(&transfer).unwrap().segments.insert(segment, (values, bytes));
            assert!(again.is_none(), "segment {segment} was durable and is sent again");
            drop(held);
            let got = self.segments_got.fetch_add(1, Ordering::SeqCst) + 1;
            match self.lie() {
                Lie::Lose(at) if got >= at => {
                    self.honest();
                    return Err(Cut::Close);
                }
                Lie::Suspend(at) if got >= at => return Err(Cut::Fault(CloseCode::Suspended)),
                _ => {}
            }
        }
        Ok(())
    }

    fn commit(&self, transfer: &str, plan: &Arc<Plan>, end: &PushEnd) -> Vec<u8> {
        let mut held = self.held.lock().unwrap();
        let held = held.get_mut(transfer).unwrap();
        let mut roots = Roots::new(plan.clone());
        for (segment, (values, _)) in &held.segments {
            roots.add(*segment, values.clone()).unwrap();
        }
        let roots = roots.finish().expect("every segment is here");
        let entry =
            |((name, bytes), root): (&(String, u64), Digest)| FileEntry { name: name.clone(), bytes: *bytes, root };
        let set: Vec<_> = held.names.iter().zip(roots).map(entry).collect();
        assert_eq!(end.bytes_root, set_root(&set).to_string());
        assert_eq!((end.bytes, end.files as usize), (plan.bytes(), set.len()));
        held.commits += 1;
        let json = self.receipt(transfer, &end.bytes_root);
        held.receipt = Some(json.clone());
        json
    }

    fn receipt(&self, transfer: &str, bytes_root: &str) -> Vec<u8> {
        let transfer = if self.lie() == Lie::WrongReceipt { "another" } else { transfer };
        serde_json::json!({"transfer": transfer, "bytes_root": bytes_root}).to_string().into_bytes()
    }

    async fn settle(&self, json: Vec<u8>, writer: &mut Writer, reader: &mut Reader) -> Result<(), Cut> {
        reply(writer, reply::Reply::Receipt(Receipt { json: json.clone().into() })).await?;
        match reader.expect::<Step>("a step").await?.step {
            Some(step::Step::Cosign(cosign)) => assert_eq!(&cosign.signature[..], &Digest::blake3(&json).bytes),
            other => panic!("not scripted: {other:?}"),
        }
        self.cosigned.fetch_add(1, Ordering::SeqCst);
        reply(writer, reply::Reply::Done(Done {})).await
    }

    async fn pull_files(
        self: &Arc<Self>,
        channel: &MemoryChannel,
        ask: Pull,
        writer: &mut Writer,
        reader: &mut Reader,
    ) -> Result<(), Cut> {
        assert!(ask.version == 0 || ask.version == 7, "a resume is for the version that was begun");
        let files = self.served.lock().unwrap().clone();
        let mut set: Vec<_> = files
            .iter()
            .map(|(name, data)| FileEntry { name: name.clone(), bytes: data.len() as u64, root: Digest::blake3(data) })
            .collect();
        match self.lie() {
            Lie::OutOfOrder => set.reverse(),
            Lie::Climb => set[0].name = "../climb".into(),
            _ => {}
        }
        let plan = Arc::new(Plan::new(set.iter().map(|f| f.bytes).collect()).unwrap());
        let ready = PullReady {
            version: 7,
            kind: "file".into(),
            token: Bytes::from_static(b"token"),
            files: set.len() as u32,
            bytes: plan.bytes(),
            ..PullReady::default()
        };
        reply(writer, reply::Reply::PullReady(ready)).await?;
        for part in set.chunks(3) {
            let file = |f: &FileEntry| ManifestFile {
                name: f.name.clone(),
                bytes: f.bytes,
                root: f.root.bytes.to_vec().into(),
            };
            let part = ManifestPart { files: part.iter().map(file).collect() };
            writer.raw(frame::encode(FrameKind::Manifest, &part.encode_to_vec()).unwrap()).await?;
        }
        let Some(step::Step::PullStart(start)) = reader.expect::<Step>("a step").await?.step else {
            panic!("PullStart")
        };
        let want: Vec<u32> = start.want.iter().flat_map(|r| r.first..r.first + r.count).collect();
        let mut streams = tokio::task::JoinSet::new();
        for part in 0..2usize {
            let segments: Vec<u32> = want.iter().copied().skip(part).step_by(2).collect();
            let (gateway, files, plan, channel) = (self.clone(), files.clone(), plan.clone(), channel.clone());
            let transfer = ask.transfer.clone();
            streams.spawn(async move { gateway.give(channel, transfer, files, &plan, segments).await });
        }
        while let Some(done) = streams.join_next().await {
            done.unwrap()?;
        }
        if self.lie() == Lie::NoEnd {
            return Ok(());
        }
        let root = if self.lie() == Lie::WrongEnd { Digest::blake3(b"") } else { set_root(&set) };
        let end = PullEnd {
            bytes: plan.bytes(),
            files: set.len() as u64,
            bytes_root: root.to_string(),
            ..PullEnd::default()
        };
        reply(writer, reply::Reply::PullEnd(end)).await?;
        match reader.expect::<Step>("a step").await?.step {
            Some(step::Step::PullDone(done)) => assert_eq!(done.bytes_root, root.to_string()),
            other => panic!("not scripted: {other:?}"),
        }
        let json = self.receipt(&ask.transfer, &root.to_string());
        if self.lie() == Lie::LoseReceipt {
            self.honest();
            return Err(Cut::Close);
        }
        self.settle(json, writer, reader).await
    }

    async fn give(
        self: Arc<Self>,
        channel: MemoryChannel,
        transfer: String,
        files: Vec<(String, Vec<u8>)>,
        plan: &Plan,
        segments: Vec<u32>,
    ) -> Result<(), Cut> {
        let mut writer = FrameWriter::new(channel.open_uni().await.map_err(|_| Cut::Gone)?);
        let token = if self.lie() == Lie::WrongToken { &b"nekot"[..] } else { b"token" };
        writer.message(&DataHello { transfer, token: Bytes::from_static(token) }).await?;
        for segment in segments {
            writer.raw(frame::segment(segment)).await?;
            for (position, item) in (0u32..).zip(plan.items(segment).unwrap()) {
                let file = &files[item.file as usize].1;
                let start = item.file_offset() as usize;
                let mut data = file[start..start + item.bytes as usize].to_vec();
                let honest = chunk_value(&data, item.chunk, file.len() as u64);
                if let (Lie::WrongValue | Lie::WrongRoot, Some(byte)) = (self.lie(), data.first_mut()) {
                    *byte ^= 1;
                }
                let lied = chunk_value(&data, item.chunk, file.len() as u64);
                let value = if self.lie() == Lie::WrongRoot { lied } else { honest };
                writer.raw(frame::item_head(position, &value, item.bytes).unwrap()).await?;
                for piece in data.chunks(70_000) {
                    writer.raw(Bytes::copy_from_slice(piece)).await?;
                }
            }
            let sent = self.segments_sent.fetch_add(1, Ordering::SeqCst) + 1;
            match self.lie() {
                Lie::Lose(at) if sent >= at => {
                    // What was sent should mostly have arrived: a resume is what is tested.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    self.honest();
                    return Err(Cut::Close);
                }
                Lie::Suspend(at) if sent >= at => {
                    writer.reset(CloseCode::Suspended);
                    return Err(Cut::Fault(CloseCode::Suspended));
                }
                _ => {}
            }
        }
        writer.finish();
        Ok(())
    }

    /// The files of one pushed transfer, put together again.
    pub(crate) fn pushed(&self, transfer: &str) -> Vec<(String, Vec<u8>)> {
        let held = self.held.lock().unwrap();
        let held = &held[transfer];
        let plan = Plan::new(held.names.iter().map(|n| n.1).collect()).unwrap();
        let mut files: Vec<_> = held.names.iter().map(|n| (n.0.clone(), Vec::new())).collect();
        for segment in 0..plan.segments() {
            let bytes = &held.segments[&segment].1;
            for item in plan.items(segment).unwrap() {
                let start = item.segment_offset as usize;
                files[item.file as usize].1.extend_from_slice(&bytes[start..start + item.bytes as usize]);
            }
        }
        files
    }
}

type Writer = FrameWriter<<MemoryChannel as Channel>::Send>;
type Reader = FrameReader<<MemoryChannel as Channel>::Recv>;
type Recv = <MemoryChannel as Channel>::Recv;

/// How a served request ends before its end.
enum Cut {
    /// The agent went away.
    Gone,
    Close,
    Fault(CloseCode),
}

impl From<lingqu_protocol::session::SessionError> for Cut {
    fn from(_: lingqu_protocol::session::SessionError) -> Self {
        Self::Gone
    }
}

async fn reply(writer: &mut Writer, reply: reply::Reply) -> Result<(), Cut> {
    Ok(writer.message(&Reply::from(reply)).await?)
}

impl Dial for Arc<Gateway> {
    type Channel = MemoryChannel;
    async fn dial(&self) -> Result<Session<MemoryChannel>, AgentError> {
        self.dials.fetch_add(1, Ordering::SeqCst);
        let (ours, theirs) = pair();
        tokio::spawn(self.clone().serve(theirs));
        Session::greet(ours, &SystemClock::new(), String::new()).await
    }
}

/// Believes a receipt that names the transfer and its digest.
struct Believer;

impl Notary for Believer {
    fn verify(&self, receipt: &[u8], expected: &Expected) -> Result<(), AgentError> {
        let json: serde_json::Value = serde_json::from_slice(receipt).unwrap();
        let root = expected.bytes_root.map(|r| r.to_string()).unwrap_or_default();
        if json["transfer"] == expected.transfer.to_string() && json["bytes_root"] == root {
            return Ok(());
        }
        Err(AgentError::Integrity(Told::new("receipt", "the receipt says something else", "回执内容不符")))
    }

    fn cosign(&self, receipt: &[u8]) -> Result<(Cosign, Vec<u8>), AgentError> {
        let signature = Digest::blake3(receipt).bytes.to_vec().into();
        Ok((Cosign { algorithm: "test".into(), signature }, receipt.to_vec()))
    }
}

/// A profile in `dir`, on `disk`.
pub(crate) fn env_on(disk: Arc<dyn Disk>, dir: &Path) -> Env {
    let clock = Arc::new(SystemClock::new());
    Env {
        outbox: Outbox::open(disk.clone(), clock.clone(), &dir.join("profile")).unwrap(),
        disk,
        clock,
        notary: Arc::new(Believer),
        patience: Patience { failures_max: 2, pause_first: Duration::ZERO, pause_max: Duration::ZERO },
        show_progress: false,
    }
}

/// A profile in `dir`, on the real disk.
pub(crate) fn env(dir: &Path) -> Env {
    env_on(Arc::new(OsDisk), dir)
}

/// Bytes that differ by file and place.
pub(crate) fn pattern(seed: u64, bytes: u64) -> Vec<u8> {
    (0..bytes).map(|i| (i.wrapping_mul(31).wrapping_add(i >> 12).wrapping_add(seed) % 253) as u8).collect()
}

/// A set that has every kind of segment.
pub(crate) fn sample() -> Vec<(String, Vec<u8>)> {
    let sizes = [("a/empty", 0), ("a/one", 1), ("b", CHUNK_BYTES), ("big", 19 * CHUNK_BYTES + 5), ("c/d/small", 4096)];
    sizes.into_iter().enumerate().map(|(i, (name, bytes))| (name.to_owned(), pattern(i as u64, bytes))).collect()
}
