//! Arrow IPC on standard output: at least once.
//!
//! Each version is an Arrow IPC stream of its own, one behind the other, with its number, mode and entry in the schema's metadata
//! ([`VERSION_KEY`] …). A version without its end-of-stream marker is not whole and must be thrown away; one whose number came
//! before is the same version again, handed on because the cursor could not be kept in the same moment.

use super::{Begin, Cursor, KeptCursor, Mode, Promise, Shape, Sink, Take, out_of_order};
use crate::batch::sink::SinkError;
use crate::error::{AgentError, Told};
use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::ipc::writer::StreamWriter;
use lingqu_protocol::changes::{OP_COLUMN, Op};
use lingqu_protocol::rows::RowsSum;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

/// The schema's metadata: the version.
pub const VERSION_KEY: &str = "lingqu.version";

/// The schema's metadata: `full`, `append` or `changes`; changes have the column `_op` behind the others.
pub const MODE_KEY: &str = "lingqu.mode";

/// The schema's metadata: the entry's id.
pub const ENTRY_KEY: &str = "lingqu.entry";

/// Bytes that wait to be written.
const BUFFER_BYTES: usize = 1 << 20;

/// The schema of a version that is handed on as it comes.
pub(super) fn schema(version: &Begin) -> SchemaRef {
    let shape = version.shape.schema();
    let mut fields: Vec<Arc<Field>> = shape.fields().iter().cloned().collect();
    if version.mode == Mode::Changes {
        // A row that goes may lack what must be there otherwise.
        fields.push(Arc::new(Field::new(OP_COLUMN, DataType::Utf8, false)));
    }
    let metadata = [
        (VERSION_KEY.to_owned(), version.version.to_string()),
        (MODE_KEY.to_owned(), version.mode.as_str().to_owned()),
        (ENTRY_KEY.to_owned(), version.entry.clone()),
    ];
    Arc::new(Schema::new(fields).with_metadata(metadata))
}

/// Rows of a version in that schema.
pub(super) fn with_op(
    schema: &SchemaRef,
    version: &Begin,
    op: Op,
    batch: &RecordBatch,
) -> Result<RecordBatch, AgentError> {
    let batch = version.shape.widened(batch)?;
    let mut columns: Vec<ArrayRef> = batch.columns().to_vec();
    if version.mode == Mode::Changes {
        columns.push(Arc::new(StringArray::from(vec![op.word(); batch.num_rows()])));
    }
    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(schema.clone(), columns, &options).map_err(|e| super::gone::not_rows(&e))
}

/// Who writes a stream.
pub type Output = Box<dyn Write + Send>;

/// Makes the output that versions go to; asked once for each.
pub type MakeOutput = Box<dyn FnMut() -> Output + Send>;

/// A stream as a sink.
pub struct StreamSink {
    kept: KeptCursor,
    output: MakeOutput,
    version: Option<(Begin, StreamWriter<io::BufWriter<Output>>)>,
}

impl std::fmt::Debug for StreamSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StreamSink").field("kept", &self.kept).finish_non_exhaustive()
    }
}

impl StreamSink {
    /// Writes to what `output` gives, and keeps the cursor in `kept`.
    pub fn new(kept: KeptCursor, output: MakeOutput) -> Self {
        Self { kept, output, version: None }
    }
}

fn failed(error: impl Into<SinkError>) -> AgentError {
    error.into().at(Path::new("standard output"))
}

impl Sink for StreamSink {
    fn promise(&self) -> Promise {
        Promise::AtLeastOnce
    }

    fn open(&mut self, entry: &str) -> Result<Option<Cursor>, AgentError> {
        self.version = None;
        self.kept.open(entry)
    }

    fn begin(&mut self, version: &Begin) -> Result<(), AgentError> {
        let output = io::BufWriter::with_capacity(BUFFER_BYTES, (self.output)());
        let writer = StreamWriter::try_new(output, &schema(version)).map_err(failed)?;
        self.version = Some((version.clone(), writer));
        Ok(())
    }

    fn rows(&mut self, op: Op, batch: &RecordBatch) -> Result<(), AgentError> {
        let (version, writer) = self.version.as_mut().ok_or_else(|| out_of_order("rows"))?;
        let rows = with_op(&schema(version), version, op, batch)?;
        writer.write(&rows).map_err(failed)
    }

    fn held(&mut self) -> Result<Option<RowsSum>, AgentError> {
        Ok(None)
    }

    fn commit(&mut self, cursor: &Cursor) -> Result<(), AgentError> {
        let (_, mut writer) = self.version.take().ok_or_else(|| out_of_order("a commit"))?;
        writer.finish().and_then(|()| writer.get_mut().flush().map_err(Into::into)).map_err(failed)?;
        self.kept.keep(cursor)
    }

    fn abandon(&mut self) {
        // What waits in the buffer may go out; without the end marker it is no version.
        self.version = None;
    }

    fn read(&mut self, _: &str, _: &mut Take<'_>) -> Result<Option<(Cursor, Shape)>, AgentError> {
        Err(cannot_read("standard output", "标准输出"))
    }
}

/// What was handed on is not there to be read.
pub(super) fn cannot_read(en: &str, zh: &str) -> AgentError {
    AgentError::Usage(
        Told::new(
            "sink_unreadable",
            format!("what was handed to {en} cannot be read back"),
            format!("已交给{zh}的数据无法读回对账"),
        )
        .next("reconcile a folder or a table", "请对文件夹或数据库表对账"),
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::backflow::testing::{begin, rows, shape};
    use arrow::ipc::reader::StreamReader;
    use lingqu_certs::os::OsDisk;
    use std::sync::Mutex;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(buf);
            Ok(buf.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn versions_follow_each_other_with_their_numbers() {
        let dir = tempfile::tempdir().unwrap();
        let out = Shared::default();
        let make = || {
            let (kept, out) = (KeptCursor::new(Arc::new(OsDisk), dir.path(), "-".into()), out.clone());
            StreamSink::new(kept, Box::new(move || Box::new(out.clone())))
        };
        let mut sink = make();
        assert_eq!(sink.promise(), Promise::AtLeastOnce);
        assert_eq!(sink.open("entry-1").unwrap(), None);
        sink.begin(&begin(1, Mode::Full)).unwrap();
        sink.rows(Op::Upsert, &rows(&[(1, "a"), (2, "b")])).unwrap();
        sink.commit(&Cursor { version: 1, slice: "s".into() }).unwrap();
        sink.begin(&begin(2, Mode::Changes)).unwrap();
        sink.rows(Op::Delete, &rows(&[(1, "a")])).unwrap();
        sink.rows(Op::Upsert, &rows(&[(1, "c")])).unwrap();
        sink.commit(&Cursor { version: 2, slice: "s".into() }).unwrap();
        drop(sink);
        assert_eq!(make().open("entry-1").unwrap().unwrap().version, 2);
        let bytes = out.0.lock().unwrap().clone();
        let mut rest = io::Cursor::new(bytes);
        let mut seen = Vec::new();
        for _ in 0..2 {
            let mut reader = StreamReader::try_new(&mut rest, None).unwrap();
            let metadata = reader.schema().metadata().clone();
            let rows: usize = reader.by_ref().map(|batch| batch.unwrap().num_rows()).sum();
            seen.push((metadata[VERSION_KEY].clone(), metadata[MODE_KEY].clone(), rows));
        }
        assert_eq!(seen, [("1".into(), "full".into(), 2), ("2".into(), "changes".into(), 2)]);
        assert_eq!(shape().len(), 2);
    }
}
