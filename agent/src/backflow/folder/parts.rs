//! Files of rows in a folder: written, read back and checked, and written anew without some of their rows.

use super::manifest::Part;
use super::{FolderFormat, PARTS};
use crate::backflow::Shape;
use crate::backflow::gone::{Gone, not_rows};
use crate::batch::sink::{Sink as FileSink, WriteOptions};
use crate::batch::{ReadOptions, read};
use crate::error::{AgentError, Told};
use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use bytes::Bytes;
use lingqu_protocol::host::Disk;
use lingqu_protocol::rows::{RowsDigest, RowsSum};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Rows of one file: few enough that writing one anew for a change in it takes a second or so.
const ROWS_MAX: u64 = 1 << 20;

/// Takes rows with the hash of each.
pub(super) type Hashed<'a> = dyn FnMut(&RecordBatch, &[u128]) -> Result<(), AgentError> + 'a;

/// Where files of a folder lie and how they are written.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) dir: PathBuf,
    pub(super) format: FolderFormat,
}

impl Place {
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Reads a file, checks that its rows are those that were written, and hands them on in the columns of `shape`.
    pub(super) fn read(&self, part: &Part, shape: &Shape, take: &mut Hashed<'_>) -> Result<(), AgentError> {
        let own = shape.first(part.columns);
        let mut digest = own.digest();
        let path = self.path(&part.name);
        let spec = own.spec();
        let read = read(&*self.disk, &path, &spec, &ReadOptions::default(), &mut |piece| {
            let batch = piece.into_whole().ok_or_else(|| changed(&path))?;
            let hashes = digest.update(&batch).map_err(|e| not_rows(&e))?;
            take(&shape.widened(&batch)?, hashes)?;
            Ok(true)
        });
        match read {
            Ok(_) => {}
            // A file of ours that is no such file any more.
            Err(AgentError::Data(_) | AgentError::Usage(_)) => return Err(changed(&path)),
            Err(error) => return Err(error),
        }
        if part.sum() == Some(digest.sum()) { Ok(()) } else { Err(changed(&path)) }
    }

    /// Writes those files anew that hold rows that go. Gives what there is then.
    pub(super) fn without(
        &self,
        files: &[Part],
        shape: &Shape,
        names: &mut Names,
        gone: &mut Gone,
    ) -> Result<Vec<Part>, AgentError> {
        let mut kept = Vec::with_capacity(files.len());
        for part in files {
            // A bit a row; the second reading cuts the file as the first does.
            let mut masks: Vec<Option<BooleanArray>> = Vec::new();
            if gone.left() > 0 {
                self.read(part, shape, &mut |_, hashes| {
                    masks.push(gone.mask(hashes));
                    Ok(())
                })?;
            }
            if masks.iter().all(Option::is_none) {
                kept.push(part.clone());
                continue;
            }
            let mut writer = Writer::new(self.clone(), shape.clone());
            let mut masks = masks.into_iter();
            self.read(part, shape, &mut |batch, _| match masks.next().flatten() {
                Some(mask) => writer.rows(&filter_record_batch(batch, &mask).map_err(|e| not_rows(&e))?, names),
                None => writer.rows(batch, names),
            })?;
            kept.extend(writer.finish()?);
        }
        Ok(kept)
    }
}

/// Names of new files: no name is used twice, for a file of that name may be read.
pub(super) struct Names {
    version: u64,
    generation: u64,
    next: u32,
    extension: &'static str,
}

impl Names {
    pub(super) const fn new(version: u64, generation: u64, extension: &'static str) -> Self {
        Self { version, generation, next: 0, extension }
    }

    /// A name that was not given before.
    pub(super) fn next(&mut self) -> String {
        let (version, generation, number) = (self.version, self.generation, self.next);
        self.next += 1;
        format!("{PARTS}/v{version:08}-{generation:08}-{number:04}.{}", self.extension)
    }

    /// Whether a name within the folder of files is one of these.
    pub(super) fn is_ours(name: &str) -> bool {
        name.starts_with('v') && FolderFormat::ALL.iter().any(|format| name.ends_with(&format!(".{}", format.word())))
    }
}

/// Writes rows into files of bounded size, each durable when it is ended, but for its name.
pub(super) struct Writer {
    place: Place,
    shape: Shape,
    open: Option<(String, FileSink, RowsDigest)>,
    done: Vec<Part>,
}

impl Writer {
    pub(super) fn new(place: Place, shape: Shape) -> Self {
        Self { place, shape, open: None, done: Vec::new() }
    }

    /// Takes rows of the shape's columns.
    pub(super) fn rows(&mut self, batch: &RecordBatch, names: &mut Names) -> Result<(), AgentError> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let batch = self.shape.widened(batch)?;
        if self.open.is_none() {
            let name = names.next();
            let path = self.place.path(&name);
            let format = self.place.format.file_format();
            let (disk, schema) = (&*self.place.disk, self.shape.schema());
            let sink =
                FileSink::create(disk, &path, format, WriteOptions::default(), schema).map_err(|e| e.at(&path))?;
            self.open = Some((name, sink, self.shape.digest()));
        }
        let Some((name, sink, digest)) = &mut self.open else { return Ok(()) };
        digest.update(&batch).map_err(|e| not_rows(&e))?;
        sink.batch(&batch, &Bytes::new()).map_err(|e| e.at(&self.place.dir.join(name)))?;
        if digest.sum().count >= ROWS_MAX {
            self.end()?;
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), AgentError> {
        let Some((name, sink, digest)) = self.open.take() else { return Ok(()) };
        sink.finish().map_err(|e| e.at(&self.place.dir.join(&name)))?;
        self.done.push(Part::new(name, digest.sum(), self.shape.len()));
        Ok(())
    }

    /// Ends the last file and gives all of them.
    pub(super) fn finish(mut self) -> Result<Vec<Part>, AgentError> {
        self.end()?;
        Ok(self.done)
    }
}

/// The sum over files; `None` where one's is damaged.
pub(super) fn sum_of(files: &[Part]) -> Option<RowsSum> {
    let mut sum = RowsSum::default();
    for part in files {
        sum.merge(&part.sum()?);
    }
    Some(sum)
}

/// A file is not as it was written.
pub(super) fn changed(path: &Path) -> AgentError {
    let path = path.display();
    AgentError::Integrity(
        Told::new(
            "sink_changed",
            format!("{path} is not as it was written: something else changed it, or the disk did"),
            format!("{path} 与写入时不一致：文件被改动或磁盘损坏"),
        )
        .next("name a new folder: it then begins with everything", "请改用新的目录，将从头接收全部数据"),
    )
}
