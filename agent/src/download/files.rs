//! Fetches a set of files over several streams, and goes on where it was: after a lost connection, and after a kill.

use super::journal::Place;
use super::receive::{Intake, WAITING_SEGMENTS, receive};
use super::staging::{Staging, StagingState, load_state, place, verify_tree};
use super::{manifest, staging_path};
use crate::connect::{ControlStream, unexpected};
use crate::error::{AgentError, Told};
use crate::outbox::PullWork;
use crate::transfer::{Env, Expected, Meter, Roots, blocking, peer, reason, settle, settle_at_once, task_failed};
use lingqu_protocol::digest::Digest;
use lingqu_protocol::ids::TransferId;
use lingqu_protocol::stream::{Channel, StreamError};
use lingqu_protocol::wire::reply::Reply;
use lingqu_protocol::wire::{DATA_STREAMS_MAX, DataHello, PullDone, PullEnd, PullReady, PullStart, SegmentRange, step};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// A gateway that sends nothing for this long while something is due has lost us, whatever its connection says.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// Ranges in one request: half of what its frame holds. A set with more holes is fetched anew, which nobody meets but one
/// whose disk lost most of what was synced.
const RANGES_MAX: usize = 50_000;

/// What was fetched.
#[derive(Clone, Debug, PartialEq)]
pub struct GotFiles {
    /// The transfer.
    pub transfer: TransferId,
    /// The version.
    pub version: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// Files.
    pub files: u64,
    /// Digest of the set.
    pub bytes_root: Digest,
    /// The only file's hash, as `b3sum` prints it.
    pub root: Option<Digest>,
    /// Bytes that came in this run.
    pub received_bytes: u64,
    /// Bytes that an earlier run had made durable.
    pub resumed_bytes: u64,
    /// Where the set lies.
    pub out: PathBuf,
    /// Where the receipt lies.
    pub receipt: PathBuf,
    /// How long this run took.
    pub seconds: f64,
}

/// A pull of files over all its connections.
pub(super) struct FilesPull {
    env: Env,
    transfer: TransferId,
    out: PathBuf,
    folder: PathBuf,
    meter: Arc<Meter>,
    begun: Option<Begun>,
    resumed_bytes: u64,
}

struct Begun {
    staging: Arc<Staging>,
    roots: Arc<Mutex<Roots>>,
}

impl FilesPull {
    pub(super) fn new(env: &Env, transfer: TransferId, work: &PullWork) -> Self {
        Self {
            env: env.clone(),
            transfer,
            folder: staging_path(&work.out, transfer),
            out: work.out.clone(),
            meter: Arc::new(Meter::new(0, env.show_progress)),
            begun: None,
            resumed_bytes: 0,
        }
    }

    /// Bytes that came in this run.
    pub(super) fn moved(&self) -> u64 {
        self.meter.moved()
    }

    /// The version that an earlier process began to fetch.
    pub(super) async fn version_begun(&self) -> Result<Option<u64>, AgentError> {
        Ok(self.state().await?.map(|s| s.version))
    }

    async fn state(&self) -> Result<Option<StagingState>, AgentError> {
        let (disk, folder) = (self.env.disk.clone(), self.folder.clone());
        blocking(move || load_state(&*disk, &folder)).await
    }

    /// Finishes a transfer whose receipt an earlier process kept: all that was left was to name the files.
    pub(super) async fn finish_interrupted(&mut self) -> Result<Option<GotFiles>, AgentError> {
        let (outbox, transfer) = (self.env.outbox.clone(), self.transfer);
        if blocking(move || outbox.receipt(transfer)).await?.is_none() {
            return Ok(None);
        }
        let Some(state) = self.state().await? else { return Ok(None) };
        let (disk, folder, out, of) = (self.env.disk.clone(), self.folder.clone(), self.out.clone(), state.clone());
        blocking(move || if out.exists() { Ok(()) } else { place(&*disk, &folder, &of, &out) }).await?;
        self.resumed_bytes = state.bytes;
        Ok(Some(self.got(&state, None, self.env.outbox.receipt_path(self.transfer))))
    }

    /// Finishes a transfer that the gateway has committed already, where all of it lies here.
    pub(super) async fn finish_with<C: Channel>(
        &mut self,
        control: &mut ControlStream<C>,
        receipt: &[u8],
    ) -> Result<GotFiles, AgentError> {
        let Some(state) = self.state().await? else {
            return Err(AgentError::Usage(
                Told::new(
                    "transfer_done",
                    "this transfer was completed before, and its output is no longer here",
                    "该传输此前已完成，其输出已不在本机",
                )
                .next("pull again as a new transfer", "请作为新的传输重新拉取"),
            ));
        };
        let (disk, folder, of) = (self.env.disk.clone(), self.folder.clone(), state.clone());
        blocking(move || verify_tree(&*disk, &folder, &of)).await?;
        let path = settle_at_once(control, &self.env, &self.expected(&state), receipt).await?;
        let (disk, folder, out, of) = (self.env.disk.clone(), self.folder.clone(), self.out.clone(), state.clone());
        blocking(move || place(&*disk, &folder, &of, &out)).await?;
        self.resumed_bytes = state.bytes.saturating_sub(self.meter.moved());
        Ok(self.got(&state, None, path))
    }

    fn expected(&self, state: &StagingState) -> Expected {
        Expected {
            transfer: self.transfer,
            bytes_root: Some(state.set_root),
            rows_digest: None,
            bytes: Some(state.bytes),
            files: Some(state.files),
            rows: None,
        }
    }

    /// One connection's worth of it.
    pub(super) async fn attempt<C: Channel>(
        &mut self,
        channel: &C,
        mut control: ControlStream<C>,
        ready: PullReady,
    ) -> Result<GotFiles, AgentError> {
        let staging = self.begin(&mut control, &ready).await?;
        let mut missing = staging.0.missing();
        if ranges(&missing).len() > RANGES_MAX {
            missing = (0..staging.0.plan.segments()).collect();
        }
        let wanted_bytes = missing.iter().filter_map(|s| staging.0.plan.segment_bytes(*s)).sum();
        control.step(step::Step::PullStart(PullStart { want: ranges(&missing) })).await?;
        let hello = DataHello { transfer: self.transfer.to_string(), token: ready.token };
        let intake = Arc::new(Intake {
            staging: staging.0.clone(),
            roots: staging.1.clone(),
            meter: self.meter.clone(),
            wanted: Mutex::new(missing.iter().copied().collect()),
            hello,
        });
        let end = collect(&mut control, channel, intake, missing.len()).await?;
        let (staging, roots) = staging;
        check_end(&end, &staging.state, wanted_bytes)?;
        verify(staging.clone(), &roots).await?;
        let done = PullDone { bytes_root: staging.state.set_root.to_string(), rows_digest: String::new() };
        control.step(step::Step::PullDone(done)).await?;
        let receipt = settle(&mut control, &self.env, &self.expected(&staging.state)).await?;
        let (disk, folder, out, of) = (self.env.disk.clone(), self.folder.clone(), self.out.clone(), staging.clone());
        blocking(move || place(&*disk, &folder, &of.state, &out)).await?;
        let root = if let [only] = staging.files.as_slice() { Some(only.root) } else { None };
        Ok(self.got(&staging.state, root, receipt))
    }

    /// Reads the manifest and goes on with what an earlier connection or process began, where it is the same set.
    async fn begin<C: Channel>(
        &mut self,
        control: &mut ControlStream<C>,
        ready: &PullReady,
    ) -> Result<(Arc<Staging>, Arc<Mutex<Roots>>), AgentError> {
        let (files, plan) = manifest::read(&mut control.reader, ready).await?;
        if let Some(begun) = &self.begun
            && begun.staging.files == files
            && begun.staging.state.version == ready.version
        {
            return Ok((begun.staging.clone(), begun.roots.clone()));
        }
        let out_is_folder = self.out.as_os_str().as_encoded_bytes().ends_with(b"/");
        let (disk, folder, version) = (self.env.disk.clone(), self.folder.clone(), ready.version);
        let shape = plan.clone();
        let staging = blocking(move || Staging::open(disk, folder, files, plan, version, out_is_folder)).await?;
        self.resumed_bytes =
            (0..shape.segments()).filter(|s| staging.has(*s)).filter_map(|s| shape.segment_bytes(s)).sum();
        self.meter.set_total(shape.bytes());
        self.meter.skip(self.resumed_bytes);
        let roots = Arc::new(Mutex::new(Roots::new(Arc::new(shape))));
        let staging = Arc::new(staging);
        self.begun = Some(Begun { staging: staging.clone(), roots: roots.clone() });
        Ok((staging, roots))
    }

    fn got(&self, state: &StagingState, root: Option<Digest>, receipt: PathBuf) -> GotFiles {
        GotFiles {
            transfer: self.transfer,
            version: state.version,
            bytes: state.bytes,
            files: state.files,
            bytes_root: state.set_root,
            root,
            received_bytes: self.meter.moved(),
            resumed_bytes: self.resumed_bytes,
            out: self.out.clone(),
            receipt,
            seconds: self.meter.elapsed().as_secs_f64(),
        }
    }
}

/// Removes what is left of a transfer beside its output, whether it is done or given up.
///
/// # Errors
/// What the disk says.
pub async fn clean(env: &Env, transfer: TransferId, out: &Path) -> Result<(), AgentError> {
    let (disk, staged) = (env.disk.clone(), staging_path(out, transfer));
    let kept = Place::beside(env.disk.clone(), out, transfer);
    blocking(move || {
        let failed = |e: std::io::Error| AgentError::io("removing", &staged, &e);
        // Rows are staged in a file, files in a folder.
        if staged.is_file() {
            disk.remove(&staged).map_err(failed)?;
        } else {
            disk.remove_dir_all(&staged).map_err(failed)?;
        }
        kept.remove().map_err(failed)
    })
    .await
}

/// Takes data streams until every wanted segment is durable and the gateway said its end record.
async fn collect<C: Channel>(
    control: &mut ControlStream<C>,
    channel: &C,
    intake: Arc<Intake>,
    mut left: usize,
) -> Result<PullEnd, AgentError> {
    let (commit, committed) = mpsc::channel(WAITING_SEGMENTS);
    let (durable, mut durable_rx) = mpsc::unbounded_channel();
    let staging = intake.staging.clone();
    let mut committer = tokio::spawn(blocking(move || make_durable(&staging, committed, &durable)));
    let mut streams = JoinSet::new();
    let mut end = None;
    let mut heard = intake.meter.moved();
    loop {
        if left == 0
            && let Some(end) = end.take()
        {
            return Ok(end);
        }
        tokio::select! {
            stream = channel.accept_uni(), if streams.len() < DATA_STREAMS_MAX as usize => {
                match stream {
                    Ok(recv) => { streams.spawn(receive(intake.clone(), recv, commit.clone())); }
                    Err(error) => return Err(reason(control, error.into()).await),
                }
            }
            Some(done) = streams.join_next() => match done {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Err(reason(control, error).await),
                Err(error) => return Err(task_failed(&error)),
            },
            reply = control.reply() => match reply? {
                Reply::Progress(_) => {}
                Reply::PullEnd(said) if end.is_none() => end = Some(said),
                other => return Err(unexpected("the end of the pull", &other)),
            },
            Some(segments) = durable_rx.recv() => left = left.saturating_sub(segments),
            done = &mut committer => {
                done.map_err(|e| task_failed(&e))??;
                return Err(StreamError::Lost("the data streams ended".into()).into());
            }
            () = tokio::time::sleep(SILENCE_MAX) => {
                if intake.meter.moved() == heard {
                    return Err(StreamError::Lost("the gateway sends nothing".into()).into());
                }
            }
        }
        heard = intake.meter.moved();
    }
}

/// Makes complete segments durable, as many at once as have come while the last sync ran.
fn make_durable(
    staging: &Staging,
    mut segments: mpsc::Receiver<u32>,
    durable: &mpsc::UnboundedSender<usize>,
) -> Result<(), AgentError> {
    while let Some(first) = segments.blocking_recv() {
        let mut group = vec![first];
        while let Ok(next) = segments.try_recv() {
            group.push(next);
        }
        staging.commit(&group)?;
        if durable.send(group.len()).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

fn check_end(end: &PullEnd, state: &StagingState, wanted_bytes: u64) -> Result<(), AgentError> {
    let bytes_fit = end.bytes == state.bytes || end.bytes == wanted_bytes;
    if bytes_fit && end.files == state.files && end.bytes_root == state.set_root.to_string() {
        return Ok(());
    }
    Err(peer("an end record that does not fit the manifest", "结束记录与文件清单不符"))
}

/// Compares every file with the manifest: by the values of what came, or from the disk where an earlier process had
/// begun.
async fn verify(staging: Arc<Staging>, roots: &Mutex<Roots>) -> Result<(), AgentError> {
    let roots = if staging.resumed { None } else { roots.lock().unwrap_or_else(PoisonError::into_inner).finish() };
    blocking(move || match roots {
        Some(roots) => staging.verify(&roots),
        None => staging.verify_from_disk(),
    })
    .await
}

/// Ascending segments as ranges.
fn ranges(segments: &[u32]) -> Vec<SegmentRange> {
    let mut ranges: Vec<SegmentRange> = Vec::new();
    for segment in segments {
        match ranges.last_mut() {
            Some(last) if last.first + last.count == *segment => last.count += 1,
            _ => ranges.push(SegmentRange { first: *segment, count: 1 }),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_hold_each_segment_once() {
        let pairs = |s: &[u32]| ranges(s).iter().map(|r| (r.first, r.count)).collect::<Vec<_>>();
        assert_eq!(pairs(&[]), []);
        assert_eq!(pairs(&[0, 1, 2, 5, 7, 8]), [(0, 3), (5, 1), (7, 2)]);
    }
}
