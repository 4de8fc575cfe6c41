//! The local object store: ours, because it takes the disk it is given and syncs what it acknowledges.

use super::folder::{Folder, read};
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use lingqu_protocol::host::Disk;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetRange, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, RenameTargetMode,
    Result,
};
use std::fmt;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

const STORE: &str = "LocalStore";

/// Bytes read at once when an object is streamed: what a slow reader can hold up, and large enough that the hop to
/// another thread costs nothing.
const PIECE_BYTES: u64 = 1 << 20;

/// Objects removed between two syncs of their directories.
const REMOVE_BATCH: usize = 256;

/// An [`ObjectStore`] on a folder of the disk. One process owns the folder.
///
/// Objects have no time of change and no tag: they are immutable, and no decision rests on a disk's clock.
/// Multipart uploads and copies are not implemented, for the lake puts whole objects.
#[derive(Clone)]
pub struct LocalStore {
    folder: Arc<Folder>,
}

impl LocalStore {
    /// Opens the store in the folder `root`, making it where it is not there, removes what a crash left half written and
    /// makes durable what it left in doubt. Takes as long as there was under way, not as there are objects. Blocks.
    ///
    /// # Errors
    /// What the disk says.
    pub fn open(disk: Arc<dyn Disk>, root: impl Into<PathBuf>) -> io::Result<Self> {
        Ok(Self { folder: Arc::new(Folder::open(disk, root.into())?) })
    }

    /// Runs `work` on a blocking thread; `object` names what it is about in its error.
    async fn blocking<T: Send + 'static>(
        &self,
        object: &Path,
        work: impl FnOnce(&Folder, &str) -> io::Result<T> + Send + 'static,
    ) -> Result<T> {
        let (folder, name) = (self.folder.clone(), object.to_string());
        let done = tokio::task::spawn_blocking(move || {
            let result = work(&folder, &name);
            (name, result)
        });
        match done.await {
            Ok((name, result)) => result.map_err(|source| from_io(name, source)),
            Err(source) => Err(Error::Generic { store: STORE, source: source.into() }),
        }
    }
}

impl fmt::Display for LocalStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(STORE)
    }
}

impl fmt::Debug for LocalStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(STORE)
    }
}

#[async_trait]
impl ObjectStore for LocalStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let create = match opts.mode {
            PutMode::Overwrite => false,
            PutMode::Create => true,
            PutMode::Update(_) => return Err(missing("conditional update")),
        };
        self.blocking(location, move |folder, object| folder.put(object, payload.as_ref(), create)).await?;
        Ok(PutResult { e_tag: None, version: None, extensions: Default::default() })
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(missing("put_multipart"))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        if options.version.is_some() {
            return Err(missing("get of a version"));
        }
        let (head, wanted) = (options.head, options.range.clone());
        let opened = self
            .blocking(location, move |folder, object| {
                if head {
                    let size = folder.len(object)?;
                    return Ok((size, resolve(wanted, size)?, None));
                }
                let file = folder.open_object(object)?;
                let size = file.len()?;
                let range = resolve(wanted, size)?;
                let first = range.start..range.end.min(range.start.saturating_add(PIECE_BYTES));
                let bytes = read(file.as_ref(), first)?;
                Ok((size, range, Some((file, bytes))))
            })
            .await?;
        let (size, range, content) = opened;
        let meta = meta(location.clone(), size);
        options.check_preconditions(&meta)?;
        let payload = match content {
            None => stream::empty().boxed(),
            Some((file, first)) => {
                let at = range.start + first.len() as u64;
                let rest = pieces(location.clone(), Arc::from(file), at..range.end);
                stream::once(async { Ok(first) }).chain(rest).boxed()
            }
        };
        let payload = GetResultPayload::Stream(payload);
        Ok(GetResult { payload, meta, range, attributes: Default::default(), extensions: Default::default() })
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let ranges = ranges.to_vec();
        self.blocking(location, move |folder, object| {
            let file = folder.open_object(object)?;
            ranges.into_iter().map(|range| read(file.as_ref(), range)).collect()
        })
        .await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        locations
            .ready_chunks(REMOVE_BATCH)
            .then(move |batch| {
                let store = store.clone();
                async move {
                    let wanted: Vec<Path> = batch.iter().filter_map(|path| path.as_ref().ok().cloned()).collect();
                    let names: Vec<String> = wanted.iter().map(Path::to_string).collect();
                    let first = wanted.first().cloned().unwrap_or_default();
                    let removed = store.blocking(&first, move |folder, _| folder.remove(&names)).await;
                    let mut out: Vec<Result<Path>> = batch.into_iter().filter(Result::is_err).collect();
                    match removed {
                        Ok(()) => out.extend(wanted.into_iter().map(Ok)),
                        Err(error) => out.push(Err(error)),
                    }
                    stream::iter(out)
                }
            })
            .flatten()
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        // One directory at a time, so that memory is bounded by the largest of them.
        let start = (self.clone(), vec![prefix.cloned().unwrap_or_default()]);
        stream::unfold(start, |(store, mut left)| async move {
            let dir = left.pop()?;
            let listed = store.blocking(&dir, |folder, prefix| folder.list(prefix)).await;
            let found = match listed {
                Ok((files, directories)) => {
                    left.extend(directories.into_iter().rev().map(Path::from));
                    files.into_iter().map(|(name, size)| Ok(meta(Path::from(name), size))).collect()
                }
                Err(error) => {
                    left.clear();
                    vec![Err(error)]
                }
            };
            Some((stream::iter(found), (store, left)))
        })
        .flatten()
        .boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let dir = prefix.cloned().unwrap_or_default();
        let (files, directories) = self.blocking(&dir, |folder, prefix| folder.list(prefix)).await?;
        Ok(ListResult {
            common_prefixes: directories.into_iter().map(Path::from).collect(),
            objects: files.into_iter().map(|(name, size)| meta(Path::from(name), size)).collect(),
            extensions: Default::default(),
        })
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(missing("copy"))
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        let create = options.target_mode == RenameTargetMode::Create;
        let target = to.to_string();
        self.blocking(from, move |folder, object| folder.rename(object, &target, create)).await
    }
}

fn pieces(
    location: Path,
    file: Arc<dyn lingqu_protocol::host::DiskFile>,
    range: Range<u64>,
) -> impl futures::Stream<Item = Result<Bytes>> + Send {
    stream::try_unfold((file, range), move |(file, range)| {
        let location = location.clone();
        async move {
            if range.is_empty() {
                return Ok(None);
            }
            let end = range.end.min(range.start.saturating_add(PIECE_BYTES));
            let (start, reading) = (range.start, file.clone());
            let bytes = tokio::task::spawn_blocking(move || read(reading.as_ref(), start..end))
                .await
                .map_err(|source| Error::Generic { store: STORE, source: source.into() })?
                .map_err(|source| from_io(location.to_string(), source))?;
            Ok(Some((bytes, (file, end..range.end))))
        }
    })
}

fn resolve(wanted: Option<GetRange>, size: u64) -> io::Result<Range<u64>> {
    match wanted {
        None => Ok(0..size),
        Some(range) => range.as_range(size).map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e)),
    }
}

fn meta(location: Path, size: u64) -> ObjectMeta {
    ObjectMeta { location, last_modified: chrono::DateTime::UNIX_EPOCH, size, e_tag: None, version: None }
}

fn missing(operation: &str) -> Error {
    Error::NotImplemented { operation: operation.to_owned(), implementer: STORE.to_owned() }
}

fn from_io(path: String, source: io::Error) -> Error {
    match source.kind() {
        io::ErrorKind::NotFound => Error::NotFound { path, source: source.into() },
        io::ErrorKind::AlreadyExists => Error::AlreadyExists { path, source: source.into() },
        io::ErrorKind::PermissionDenied => Error::PermissionDenied { path, source: source.into() },
        _ => Error::Generic { store: STORE, source: source.into() },
    }
}
