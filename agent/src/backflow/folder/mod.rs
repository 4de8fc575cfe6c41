//! A folder of Parquet, CSV or Arrow files with a manifest: exactly once.
//!
//! ```text
//! DIR/manifest.json        which files hold the rows, of which version, and the cursor; replaced as a whole
//! DIR/parts/v…-….parquet   files of rows; one that the manifest does not name is not data
//! DIR/.lock                held by the process that writes
//! ```
//!
//! Files of a version get names that were never used, and are synced, and so is the folder of their names; then the manifest is
//! replaced (temporary file, sync, rename, sync of the directory). A kill or a power cut before that leaves the old manifest and
//! files that nobody names, which the next start removes; after it, the new one. What the manifest does not name any more
//! stays for one version, for readers that began with the old one.
//!
//! The rows in the files are the entry's rows as they are now: changes are merged in. A file of which rows were taken away is
//! written anew. Rows that are read for that are checked against the sum that was kept of them.

mod manifest;
mod parts;

use super::gone::{Gone, not_held, not_rows};
use super::{Begin, Cursor, Mode, Promise, Shape, Sink, Take, kept, other_columns, other_entry, out_of_order};
use crate::batch::sink::Format;
use crate::error::{AgentError, Told};
use arrow::array::RecordBatch;
use lingqu_protocol::changes::Op;
use lingqu_protocol::host::{Clock, Disk, DiskLock, make_own_dir};
use lingqu_protocol::rows::{RowsDigest, RowsSum};
use manifest::{Manifest, NAME, Next, Part};
use parts::{Names, Place, Writer, changed, sum_of};
use std::io;
use std::path::Path;
use std::sync::Arc;

/// The folder of files of rows.
const PARTS: &str = "parts";

/// The lock of who writes.
const LOCK: &str = ".lock";

/// Files from which on small ones are put together: a reader that opens each stays quick.
const FILES_MAX: usize = 64;

/// A file with fewer rows than this is small.
const SMALL_ROWS: u64 = 1 << 18;

/// What files a folder holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FolderFormat {
    /// Parquet.
    Parquet,
    /// CSV in UTF-8: an empty field is no value, `""` the empty string.
    Csv,
    /// Arrow IPC files.
    Arrow,
}

impl FolderFormat {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Parquet, Self::Csv, Self::Arrow];

    /// Its word, which is the end of its files' names.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Parquet => "parquet",
            Self::Csv => "csv",
            Self::Arrow => "arrow",
        }
    }

    const fn file_format(self) -> Format {
        match self {
            Self::Parquet => Format::Parquet,
            Self::Csv => Format::Csv,
            Self::Arrow => Format::Arrow,
        }
    }
}

/// A folder as a sink.
pub struct FolderSink {
    place: Place,
    clock: Arc<dyn Clock>,
    open: Option<Open>,
}

/// A folder that this process holds.
struct Open {
    entry: String,
    manifest: Option<Manifest>,
    version: Option<Building>,
    _lock: Box<dyn DiskLock>,
}

/// A version under way.
struct Building {
    begin: Begin,
    names: Names,
    writer: Option<Writer>,
    /// The files of the next manifest, once all rows came.
    files: Option<(Vec<Part>, RowsSum)>,
    /// Rows that go, with what hashes them.
    gone: (RowsDigest, Gone),
    came: u64,
}

impl std::fmt::Debug for FolderSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FolderSink").field("dir", &self.place.dir).finish_non_exhaustive()
    }
}

impl FolderSink {
    /// The folder `dir`, which is made when it is opened.
    pub fn new(disk: Arc<dyn Disk>, clock: Arc<dyn Clock>, dir: &Path, format: FolderFormat) -> Self {
        Self { place: Place { disk, dir: dir.to_owned(), format }, clock, open: None }
    }

    fn shown(&self) -> String {
        self.place.dir.display().to_string()
    }

    fn opened(&mut self) -> Result<&mut Open, AgentError> {
        self.open.as_mut().ok_or_else(|| out_of_order("a folder"))
    }

    /// Refuses a folder with something else in it.
    fn refuse_others(&self) -> Result<(), AgentError> {
        let dir = &self.place.dir;
        let names = match self.place.disk.read_dir(dir) {
            Ok(names) => names,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(AgentError::io("looking at", dir, &e)),
        };
        let ours = [NAME, "manifest.tmp", PARTS, LOCK];
        if names.iter().any(|entry| entry.name == NAME) {
            return Ok(());
        }
        let Some(other) = names.iter().find(|entry| !ours.contains(&entry.name.as_str())) else { return Ok(()) };
        let (dir, other) = (self.shown(), lingqu_protocol::name::escape_for_log(&other.name));
        let told = Told::new(
            "folder_in_use",
            format!("{dir} holds something else ({other}) and no manifest"),
            format!("{dir} 中有其他文件（{other}），且没有清单"),
        );
        Err(AgentError::Usage(told.next("name an empty or a new folder", "请指定空目录或新目录")))
    }

    /// Removes what a cut version left.
    fn sweep(&self, manifest: Option<&Manifest>) -> Result<(), AgentError> {
        let (disk, parts) = (&self.place.disk, self.place.dir.join(PARTS));
        let failed = |e: io::Error| AgentError::io("tidying", &parts, &e);
        for entry in disk.read_dir(&parts).map_err(failed)? {
            let named = manifest.is_some_and(|m| m.names(&format!("{PARTS}/{}", entry.name)));
            if !named && !entry.is_dir && Names::is_ours(&entry.name) {
                disk.remove(&parts.join(&entry.name)).map_err(failed)?;
            }
        }
        Ok(())
    }
}

impl Sink for FolderSink {
    fn promise(&self) -> Promise {
        Promise::ExactlyOnce
    }

    fn open(&mut self, entry: &str) -> Result<Option<Cursor>, AgentError> {
        self.open = None;
        self.refuse_others()?;
        let (disk, dir) = (self.place.disk.clone(), self.place.dir.clone());
        let made = |path: &Path| make_own_dir(&*disk, path).map_err(|e| AgentError::io("making the folder", path, &e));
        made(&dir)?;
        let lock = disk.lock(&dir.join(LOCK)).map_err(|e| AgentError::io("locking", &dir, &e))?;
        let lock = lock.ok_or_else(|| kept::is_held(&self.shown()))?;
        made(&dir.join(PARTS))?;
        let manifest = Manifest::load(&*disk, &dir)?;
        if let Some(manifest) = &manifest {
            if manifest.entry != entry {
                return Err(other_entry(&self.shown(), &manifest.entry, entry));
            }
            if manifest.format != self.place.format.word() {
                let (dir, format) = (self.shown(), &manifest.format);
                let told = Told::new(
                    "other_format",
                    format!("{dir} holds {format} files"),
                    format!("{dir} 中的文件格式为 {format}"),
                );
                let next = told.next("say that --format, or name a new folder", "请指定该格式，或改用新的目录");
                return Err(AgentError::Usage(next));
            }
            // It is to be seen, which does not say that it is durable: its writer's last sync may have failed.
            manifest.write(&*disk, &dir)?;
        }
        self.sweep(manifest.as_ref())?;
        let cursor = manifest.as_ref().map(Manifest::cursor);
        self.open = Some(Open { entry: entry.to_owned(), manifest, version: None, _lock: lock });
        Ok(cursor)
    }

    fn begin(&mut self, version: &Begin) -> Result<(), AgentError> {
        self.abandon();
        let (shown, place) = (self.shown(), self.place.clone());
        let open = self.opened()?;
        if version.entry != open.entry {
            return Err(other_entry(&shown, &open.entry, &version.entry));
        }
        let shape = version.shape_after(open.manifest.as_ref().map(|manifest| &manifest.columns));
        let version = &Begin { shape, ..version.clone() };
        if let (Some(manifest), Mode::Append | Mode::Changes) = (&open.manifest, version.mode)
            && let Some(why) = version.shape.differs_from(&manifest.columns)
        {
            return Err(other_columns(&shown, &why));
        }
        let generation = open.manifest.as_ref().map_or(0, |manifest| manifest.generation) + 1;
        open.version = Some(Building {
            names: Names::new(version.version, generation, place.format.word()),
            writer: Some(Writer::new(place, version.shape.clone())),
            begin: version.clone(),
            files: None,
            gone: (version.shape.digest(), Gone::default()),
            came: 0,
        });
        Ok(())
    }

    fn rows(&mut self, op: Op, batch: &RecordBatch) -> Result<(), AgentError> {
        let building = self.opened()?.version.as_mut().ok_or_else(|| out_of_order("rows"))?;
        building.came += batch.num_rows() as u64;
        match (op, &mut building.writer) {
            (Op::Delete, _) => {
                let (digest, gone) = &mut building.gone;
                gone.add(digest.update(batch).map_err(|e| not_rows(&e))?);
                Ok(())
            }
            (Op::Upsert, Some(writer)) => writer.rows(batch, &mut building.names),
            (Op::Upsert, None) => Err(out_of_order("rows")),
        }
    }

    fn held(&mut self) -> Result<Option<RowsSum>, AgentError> {
        let place = self.place.clone();
        let open = self.opened()?;
        let building = open.version.as_mut().ok_or_else(|| out_of_order("an end"))?;
        if let Some((_, sum)) = &building.files {
            return Ok(Some(*sum));
        }
        let writer = building.writer.take().ok_or_else(|| out_of_order("an end"))?;
        let before = open.manifest.as_ref().map_or(&[][..], |manifest| &manifest.files);
        let files = building.ended(&place, before, writer.finish()?)?;
        let sum = sum_of(&files).ok_or_else(|| changed(&place.path(NAME)))?;
        building.files = Some((files, sum));
        Ok(Some(sum))
    }

    fn commit(&mut self, cursor: &Cursor) -> Result<(), AgentError> {
        self.held()?;
        let (place, now) = (self.place.clone(), self.clock.wall());
        let open = self.opened()?;
        let building = open.version.take().ok_or_else(|| out_of_order("a commit"))?;
        let (files, sum) = building.files.ok_or_else(|| out_of_order("a commit"))?;
        let next = Next {
            entry: &open.entry,
            format: place.format.word(),
            cursor,
            shape: &building.begin.shape,
            files,
            sum,
            mode: building.begin.mode.as_str(),
            came: building.came,
            now,
        };
        let manifest = Manifest::after(open.manifest.as_ref(), next);
        // Whatever fails from here on, only another look at the disk says what is there: it has to be opened again.
        let mut open = self.open.take().ok_or_else(|| out_of_order("a commit"))?;
        let before = open.manifest.take();
        let parts = place.dir.join(PARTS);
        place.disk.sync_dir(&parts).map_err(|e| AgentError::io("syncing", &parts, &e))?;
        manifest.write(&*place.disk, &place.dir)?;
        for name in before.iter().flat_map(|m| &m.retired) {
            if let Err(error) = place.disk.remove(&place.path(name)) {
                tracing::warn!(file = name, %error, "a file that is not needed any more could not be removed");
            }
        }
        open.manifest = Some(manifest);
        self.open = Some(open);
        Ok(())
    }

    fn abandon(&mut self) {
        let Some(open) = &mut self.open else { return };
        if open.version.take().is_none() {
            return;
        }
        let manifest = open.manifest.clone();
        if let Err(error) = self.sweep(manifest.as_ref()) {
            tracing::warn!(%error, "what a version left could not be removed; the next start does it");
        }
    }

    fn read(&mut self, entry: &str, take: &mut Take<'_>) -> Result<Option<(Cursor, Shape)>, AgentError> {
        let place = &self.place;
        let Some(manifest) = Manifest::load(&*place.disk, &place.dir)? else { return Ok(None) };
        if manifest.entry != entry {
            return Err(other_entry(&self.shown(), &manifest.entry, entry));
        }
        for part in &manifest.files {
            place.read(part, &manifest.columns, &mut |batch, _| take(batch))?;
        }
        Ok(Some((manifest.cursor(), manifest.columns)))
    }
}

impl Building {
    /// The files that there are after this version: `before` and `came`, without what changes took away.
    fn ended(&mut self, place: &Place, before: &[Part], came: Vec<Part>) -> Result<Vec<Part>, AgentError> {
        let shape = self.begin.shape.clone();
        let files = match self.begin.mode {
            Mode::Full => came,
            Mode::Append | Mode::Changes => {
                let gone = &mut self.gone.1;
                let mut files = place.without(before, &shape, &mut self.names, gone)?;
                if gone.left() > 0 {
                    return Err(not_held(&place.dir.display().to_string(), gone.left()));
                }
                files.extend(came);
                files
            }
        };
        self.fewer(place, &shape, files)
    }

    /// Puts small files together where there are many.
    fn fewer(&mut self, place: &Place, shape: &Shape, files: Vec<Part>) -> Result<Vec<Part>, AgentError> {
        if files.len() <= FILES_MAX {
            return Ok(files);
        }
        let (small, mut rest): (Vec<Part>, Vec<Part>) = files.into_iter().partition(|part| part.rows < SMALL_ROWS);
        let mut writer = Writer::new(place.clone(), shape.clone());
        for part in &small {
            place.read(part, shape, &mut |batch, _| writer.rows(batch, &mut self.names))?;
        }
        rest.extend(writer.finish()?);
        Ok(rest)
    }
}
