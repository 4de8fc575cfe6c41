//! The thread that writes rows where they are wanted: frames come over a short queue, are kept in the journal beside the
//! output, decoded, summed up and written in the output's format.

use super::journal::{Arrived, Journal};
use crate::batch::sink::{Format, Sink, SinkError, WriteOptions};
use crate::error::{AgentError, Told};
use crate::transfer::{Meter, peer};
use bytes::Bytes;
use lingqu_protocol::host::Disk;
use lingqu_protocol::ipc::{BatchRoot, Decoder, IpcError};
use lingqu_protocol::rows::RowsDigest;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::{mpsc, oneshot};

/// Frames that wait for the output.
const WAITING_FRAMES: usize = 4;

pub(super) enum Output {
    File {
        disk: Arc<dyn Disk>,
        path: PathBuf,
        format: Format,
        options: WriteOptions,
        journal: Box<Journal>,
    },
    /// A file whose journal is held elsewhere.
    Plain {
        disk: Arc<dyn Disk>,
        path: PathBuf,
        format: Format,
        options: WriteOptions,
    },
    Stream(Box<dyn io::Write + Send>),
}

pub(super) enum Message {
    Frame(Bytes),
    /// The gateway's mark behind the frames so far.
    Mark(Bytes),
    /// All frames came: says what they were.
    Sum(oneshot::Sender<Arrived>),
    /// They are what the gateway sent: ends the format.
    Finish(oneshot::Sender<()>),
}

/// The thread that writes.
pub(super) struct Writer {
    pub(super) queue: mpsc::Sender<Message>,
    stop: Arc<AtomicBool>,
    error: tokio::sync::Mutex<Option<oneshot::Receiver<AgentError>>>,
}

impl Writer {
    pub(super) fn start(output: Output, meter: Arc<Meter>) -> Result<Self, AgentError> {
        let (queue, messages) = mpsc::channel(WAITING_FRAMES);
        let (failed, error) = oneshot::channel();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        std::thread::Builder::new()
            .name("rows".into())
            .spawn(move || {
                if let Err(error) = write(output, messages, &stopped, &meter) {
                    // Nobody listens where the pull has ended for another reason.
                    let _ended = failed.send(error);
                }
            })
            .map_err(|e| AgentError::io("starting a thread for", Path::new("the output"), &e))?;
        Ok(Self { queue, stop, error: tokio::sync::Mutex::new(Some(error)) })
    }

    /// Why the thread ended.
    pub(super) async fn failed(&self) -> AgentError {
        let error = match self.error.lock().await.take() {
            Some(error) => error.await.ok(),
            None => None,
        };
        error.unwrap_or_else(|| AgentError::Machine(Told::new("output", "the output's thread ended", "输出线程已结束")))
    }

    /// Nothing more is written, and no end marker.
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
    }

    pub(super) async fn finish(&self) -> Result<(), AgentError> {
        let (answer, finished) = oneshot::channel();
        if self.queue.send(Message::Finish(answer)).await.is_err() || finished.await.is_err() {
            return Err(self.failed().await);
        }
        Ok(())
    }
}

fn write(
    output: Output,
    mut messages: mpsc::Receiver<Message>,
    stop: &AtomicBool,
    meter: &Meter,
) -> Result<(), AgentError> {
    let mut writing = Writing::new(output);
    writing.replay(stop)?;
    while let Some(message) = messages.blocking_recv() {
        if stop.load(Ordering::SeqCst) {
            return Ok(());
        }
        match message {
            Message::Frame(body) => {
                meter.add(body.len() as u64);
                writing.frame(body)?;
            }
            Message::Mark(token) => writing.mark(&token)?,
            Message::Sum(answer) => {
                if answer.send(writing.arrived()?).is_err() {
                    return Ok(());
                }
            }
            Message::Finish(answer) => {
                writing.finish()?;
                // The pull that asked may have been given up.
                let _gone = answer.send(());
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Frames on their way to the output.
struct Writing {
    path: PathBuf,
    output: Option<Output>,
    journal: Option<Box<Journal>>,
    decoder: Decoder,
    rows: Option<(RowsDigest, Sink)>,
    root: BatchRoot,
}

impl Writing {
    fn new(output: Output) -> Self {
        let (path, output, journal) = match output {
            Output::File { disk, path, format, options, journal } => {
                (path.clone(), Output::Plain { disk, path, format, options }, Some(journal))
            }
            other => (PathBuf::from("standard output"), other, None),
        };
        let (decoder, root) = (Decoder::default(), BatchRoot::default());
        Self { path, output: Some(output), journal, decoder, rows: None, root }
    }

    /// Takes the frames that were kept from before.
    fn replay(&mut self, stop: &AtomicBool) -> Result<(), AgentError> {
        loop {
            let Some(journal) = &mut self.journal else { return Ok(()) };
            let kept = journal.replay().map_err(|e| AgentError::io("reading what was kept of", &self.path, &e))?;
            let Some(body) = kept else { return Ok(()) };
            if stop.load(Ordering::SeqCst) {
                return Ok(());
            }
            self.take(body)?;
        }
    }

    /// Takes a frame that came, and keeps it.
    fn frame(&mut self, body: Bytes) -> Result<(), AgentError> {
        if let Some(journal) = &mut self.journal {
            if self.rows.is_some() && journal.first() == Some(&body) {
                // The schema again, for a pull that goes on; it was counted then.
                return Ok(());
            }
            journal.frame(&body).map_err(|e| AgentError::io("keeping what comes of", &self.path, &e))?;
        }
        self.take(body)
    }

    fn mark(&mut self, token: &[u8]) -> Result<(), AgentError> {
        let Some(journal) = &mut self.journal else { return Ok(()) };
        journal.mark(token).map_err(|e| AgentError::io("keeping what comes of", &self.path, &e))
    }

    fn take(&mut self, body: Bytes) -> Result<(), AgentError> {
        let failed = |e: SinkError| e.at(&self.path);
        self.root.add([&body[..]]);
        let batch = self.decoder.decode(body.clone()).map_err(|e| not_rows(&e))?;
        match (batch, &mut self.rows) {
            (Some(batch), Some((digest, sink))) => {
                digest.update(&batch).map_err(|e| peer(e.to_string(), e.to_string()))?;
                sink.batch(&batch, &body).map_err(failed)
            }
            (None, slot @ None) => {
                let schema = self.decoder.schema().ok_or_else(|| not_rows(&IpcError::NoSchema))?.clone();
                let digest = RowsDigest::of_schema(&schema)
                    .ok_or_else(|| peer("columns of a type that is not sent", "列类型不受支持"))?;
                let mut sink = match self.output.take() {
                    Some(Output::Plain { disk, path, format, options }) => {
                        Sink::create(&*disk, &path, format, options, schema)
                    }
                    Some(Output::Stream(out)) => Ok(Sink::stream(out)),
                    Some(Output::File { .. }) | None => return Ok(()),
                }
                .map_err(failed)?;
                sink.schema(&body).map_err(failed)?;
                *slot = Some((digest, sink));
                Ok(())
            }
            _ => Err(not_rows(&IpcError::NoSchema)),
        }
    }

    fn arrived(&self) -> Result<Arrived, AgentError> {
        let Some((digest, _)) = &self.rows else { return Err(not_rows(&IpcError::NoSchema)) };
        Ok(Arrived {
            rows: digest.sum().count,
            bytes: self.root.bytes(),
            bytes_root: self.root.digest(),
            rows_digest: digest.finish(),
        })
    }

    /// Ends the format, and writes down that all of it is there.
    fn finish(&mut self) -> Result<(), AgentError> {
        let arrived = self.arrived()?;
        if let Some((_, sink)) = self.rows.take() {
            sink.finish().map_err(|e| e.at(&self.path))?;
        }
        if let Some(journal) = &mut self.journal {
            journal.whole(&arrived).map_err(|e| AgentError::io("keeping what comes of", &self.path, &e))?;
        }
        Ok(())
    }
}

fn not_rows(error: &IpcError) -> AgentError {
    peer(format!("the gateway sent what are no rows: {error}"), format!("网关发送的不是有效数据行：{error}"))
}
