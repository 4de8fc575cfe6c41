//! A command for each version: at least once.
//!
//! The rows are put down beside the profile first and checked; then the command gets them on its standard input, and what they are
//! in its environment: `LINGQU_ENTRY`, `LINGQU_VERSION`, `LINGQU_MODE`, `LINGQU_CURSOR` (the version that it was handed before, 0 where
//! none), `LINGQU_FORMAT` (`arrow`: an Arrow IPC stream; `csv`: with a header line). Changes have the column `_op` behind the others.
//! When it ends with 0 the cursor is kept. Otherwise it is tried again, with pauses, and then the alarm is raised. Where this
//! program dies between the command's end and the cursor, the command gets the version again: its number tells.

use super::stream::{cannot_read, schema, with_op};
use super::{Begin, Cursor, KeptCursor, Promise, Shape, Sink, Take, out_of_order};
use crate::batch::sink::{FileWrite, Format, Sink as FileSink, SinkError, WriteOptions};
use crate::error::{AgentError, Told};
use arrow::array::RecordBatch;
use arrow::ipc::writer::StreamWriter;
use bytes::Bytes;
use lingqu_protocol::changes::Op;
use lingqu_protocol::host::{Disk, DiskFile};
use lingqu_protocol::rows::RowsSum;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// How often a command is tried.
const TRIES_MAX: u32 = 5;

/// The first pause; each further one is twice as long: half a minute in all.
const PAUSE: Duration = Duration::from_secs(2);

/// Bytes that are handed to a command at a time.
const PIECE_BYTES: usize = 256 << 10;

/// What a command gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommandFormat {
    /// An Arrow IPC stream.
    Arrow,
    /// CSV with a header line.
    Csv,
}

impl CommandFormat {
    const fn word(self) -> &'static str {
        match self {
            Self::Arrow => "arrow",
            Self::Csv => "csv",
        }
    }
}

/// A command as a sink.
pub struct CommandSink {
    disk: Arc<dyn Disk>,
    kept: KeptCursor,
    command: String,
    format: CommandFormat,
    pause: Duration,
    before: u64,
    version: Option<(Begin, Spool)>,
}

enum Spool {
    Arrow(Box<StreamWriter<FileWrite>>),
    Csv(Box<FileSink>),
}

impl std::fmt::Debug for CommandSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CommandSink").field("kept", &self.kept).finish_non_exhaustive()
    }
}

impl CommandSink {
    /// Runs `command` by the shell, and keeps the cursor in `kept`.
    pub fn new(disk: Arc<dyn Disk>, kept: KeptCursor, command: String, format: CommandFormat) -> Self {
        Self { disk, kept, command, format, pause: PAUSE, before: 0, version: None }
    }

    fn path(&self) -> PathBuf {
        self.kept.path("spool")
    }

    fn failed(&self) -> impl Fn(SinkError) -> AgentError + use<> {
        let path = self.path();
        move |error| error.at(&path)
    }

    fn gone(&self) -> io::Result<()> {
        match self.disk.remove(&self.path()) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    /// Hands the version to the command once.
    fn run(&self, version: &Begin) -> io::Result<ExitStatus> {
        let file = self.disk.open(&self.path())?;
        let mut child = Command::new("/bin/sh")
            .args(["-c", &self.command])
            .env("LINGQU_ENTRY", &version.entry)
            .env("LINGQU_VERSION", version.version.to_string())
            .env("LINGQU_MODE", version.mode.as_str())
            .env("LINGQU_CURSOR", self.before.to_string())
            .env("LINGQU_FORMAT", self.format.word())
            .stdin(Stdio::piped())
            // Our own standard output is for what we say.
            .stdout(Stdio::from(io::stderr()))
            .spawn()?;
        if let Some(mut input) = child.stdin.take() {
            match feed(&*file, &mut input) {
                // It has read enough; its exit code says whether it is content.
                Err(e) if e.kind() == io::ErrorKind::BrokenPipe => {}
                fed => fed?,
            }
        }
        child.wait()
    }
}

fn feed(file: &dyn DiskFile, input: &mut dyn Write) -> io::Result<()> {
    let bytes = file.len()?;
    let mut piece = vec![0; PIECE_BYTES];
    let mut at = 0;
    while at < bytes {
        let length = (bytes - at).min(PIECE_BYTES as u64) as usize;
        let Some(part) = piece.get_mut(..length) else { break };
        file.read_exact_at(part, at)?;
        input.write_all(part)?;
        at += length as u64;
    }
    input.flush()
}

impl Sink for CommandSink {
    fn promise(&self) -> Promise {
        Promise::AtLeastOnce
    }

    fn open(&mut self, entry: &str) -> Result<Option<Cursor>, AgentError> {
        self.version = None;
        let cursor = self.kept.open(entry)?;
        self.before = cursor.as_ref().map_or(0, |cursor| cursor.version);
        Ok(cursor)
    }

    fn begin(&mut self, version: &Begin) -> Result<(), AgentError> {
        self.abandon();
        let failed = self.failed();
        self.gone().map_err(|e| failed(e.into()))?;
        let (path, schema) = (self.path(), schema(version));
        let spool = match self.format {
            CommandFormat::Csv => {
                let sink = FileSink::create(&*self.disk, &path, Format::Csv, WriteOptions::default(), schema);
                Spool::Csv(Box::new(sink.map_err(failed)?))
            }
            CommandFormat::Arrow => {
                let file = self.disk.create(&path).map_err(|e| failed(e.into()))?;
                let writer = StreamWriter::try_new(FileWrite::new(file.into()), &schema);
                Spool::Arrow(Box::new(writer.map_err(|e| failed(e.into()))?))
            }
        };
        self.version = Some((version.clone(), spool));
        Ok(())
    }

    fn rows(&mut self, op: Op, batch: &RecordBatch) -> Result<(), AgentError> {
        let failed = self.failed();
        let (version, spool) = self.version.as_mut().ok_or_else(|| out_of_order("rows"))?;
        let rows = with_op(&schema(version), version, op, batch)?;
        match spool {
            Spool::Arrow(writer) => writer.write(&rows).map_err(|e| failed(e.into())),
            Spool::Csv(sink) => sink.batch(&rows, &Bytes::new()).map_err(failed),
        }
    }

    fn held(&mut self) -> Result<Option<RowsSum>, AgentError> {
        Ok(None)
    }

    fn commit(&mut self, cursor: &Cursor) -> Result<(), AgentError> {
        let failed = self.failed();
        let (version, spool) = self.version.take().ok_or_else(|| out_of_order("a commit"))?;
        match spool {
            Spool::Arrow(mut writer) => writer.finish().map_err(|e| failed(e.into()))?,
            Spool::Csv(sink) => sink.finish().map_err(&failed)?,
        }
        let mut pause = self.pause;
        for tries in 1.. {
            let said = match self.run(&version) {
                Ok(status) if status.success() => break,
                Ok(status) => status.to_string(),
                Err(error) => error.to_string(),
            };
            tracing::warn!(version = version.version, tries, said, "the command did not take the version");
            if tries >= TRIES_MAX {
                return Err(not_taken(version.version, &said));
            }
            std::thread::sleep(pause);
            pause *= 2;
        }
        self.kept.keep(cursor)?;
        self.before = cursor.version;
        if let Err(error) = self.gone() {
            tracing::warn!(%error, "rows that were handed on could not be removed; the next version does it");
        }
        Ok(())
    }

    fn abandon(&mut self) {
        if self.version.take().is_some()
            && let Err(error) = self.gone()
        {
            tracing::warn!(%error, "rows of a version that was cut could not be removed; the next version does it");
        }
    }

    fn read(&mut self, _: &str, _: &mut Take<'_>) -> Result<Option<(Cursor, Shape)>, AgentError> {
        Err(cannot_read("a command", "命令"))
    }
}

fn not_taken(version: u64, said: &str) -> AgentError {
    AgentError::Machine(
        Told::new(
            "command_failed",
            format!("the command did not take version {version} in {TRIES_MAX} tries: {said}"),
            format!("命令 {TRIES_MAX} 次未能接收第 {version} 版：{said}"),
        )
        .next("put it right and start again: the version comes again", "修正命令后重新执行，该版本会再次交付"),
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::backflow::Mode;
    use crate::backflow::testing::{begin, rows};
    use lingqu_certs::os::OsDisk;
    use std::path::Path;

    fn sink(dir: &Path, command: &str, format: CommandFormat) -> CommandSink {
        let disk: Arc<dyn Disk> = Arc::new(OsDisk);
        let kept = KeptCursor::new(disk.clone(), dir, "command".into());
        let mut sink = CommandSink::new(disk, kept, command.into(), format);
        sink.pause = Duration::ZERO;
        sink
    }

    fn hand(sink: &mut CommandSink, version: u64, mode: Mode) -> Result<(), AgentError> {
        sink.open("entry-1").unwrap();
        sink.begin(&begin(version, mode)).unwrap();
        if mode == Mode::Changes {
            sink.rows(Op::Delete, &rows(&[(9, "x")])).unwrap();
        }
        sink.rows(Op::Upsert, &rows(&[(1, "a,b"), (2, "")])).unwrap();
        sink.commit(&Cursor { version, slice: "s".into() })
    }

    #[test]
    fn a_command_gets_rows_and_what_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let command = format!(
            "(echo $LINGQU_VERSION $LINGQU_MODE $LINGQU_CURSOR $LINGQU_FORMAT $LINGQU_ENTRY; cat) >> {}",
            out.display()
        );
        let mut sink = sink(dir.path(), &command, CommandFormat::Csv);
        hand(&mut sink, 3, Mode::Full).unwrap();
        hand(&mut sink, 4, Mode::Changes).unwrap();
        let got = std::fs::read_to_string(&out).unwrap();
        let expected = "3 full 0 csv entry-1\n\"id\",\"name\"\n1,\"a,b\"\n2,\"\"\n\
                        4 changes 3 csv entry-1\n\"id\",\"name\",\"_op\"\n9,\"x\",\"delete\"\n1,\"a,b\",\"upsert\"\n2,\"\",\"upsert\"\n";
        assert_eq!(got.replace('"', ""), expected.replace('"', ""));
        assert!(!sink.path().exists());
    }

    #[test]
    fn a_command_that_fails_is_tried_again_and_then_told() {
        let dir = tempfile::tempdir().unwrap();
        let (count, path) = (dir.path().join("count"), dir.path().display().to_string());
        let third = format!("echo x >> {path}/count; test $(wc -l < {path}/count) -ge 3");
        hand(&mut sink(dir.path(), &third, CommandFormat::Arrow), 1, Mode::Full).unwrap();
        assert_eq!(std::fs::read_to_string(&count).unwrap().lines().count(), 3);
        let error = hand(&mut sink(dir.path(), "exit 3", CommandFormat::Arrow), 2, Mode::Full).unwrap_err();
        assert_eq!((error.exit_code(), error.told().word.as_str()), (1, "command_failed"));
        // It was not taken, so it comes again.
        assert_eq!(sink(dir.path(), "true", CommandFormat::Arrow).open("entry-1").unwrap().unwrap().version, 1);
    }
}
