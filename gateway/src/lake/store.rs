//! The lake's own view of an object store: whole objects put once, ranges read, damage moved aside.

use super::error::LakeError;
use crate::metrics;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream::BoxStream};
use object_store::path::Path;
use object_store::{Error, GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutPayload};
use std::ops::Range;
use std::sync::Arc;

/// Where damaged objects are kept, for people to look at.
pub const QUARANTINE: &str = "quarantine";

/// The object store of the lake. Clones share it.
#[derive(Clone, Debug)]
pub struct Lake {
    store: Arc<dyn ObjectStore>,
}

impl Lake {
    /// On this store.
    pub fn new(store: Arc<dyn ObjectStore>) -> Self {
        Self { store }
    }

    /// Puts an object that is not there yet, whole and durable. `false` where there is one: it was left as it is.
    ///
    /// # Errors
    /// No room, or the store failed; nothing is there then.
    pub async fn put_new(&self, object: &Path, pieces: Vec<Bytes>) -> Result<bool, LakeError> {
        let payload = PutPayload::from_iter(pieces);
        match self.store.put_opts(object, payload, PutMode::Create.into()).await {
            Ok(_) => Ok(true),
            Err(Error::AlreadyExists { .. }) => Ok(false),
            Err(error) => Err(LakeError::store(object, error)),
        }
    }

    /// Length of an object in bytes; `None` where there is none.
    ///
    /// # Errors
    /// The store failed.
    pub async fn len(&self, object: &Path) -> Result<Option<u64>, LakeError> {
        match self.store.head(object).await {
            Ok(meta) => Ok(Some(meta.size)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(LakeError::store(object, error)),
        }
    }

    /// A range of an object. An empty range reads nothing.
    ///
    /// # Errors
    /// Not found, shorter than the range says, or the store failed.
    pub async fn range(&self, object: &Path, range: Range<u64>) -> Result<Bytes, LakeError> {
        let mut all = self.ranges(object, std::slice::from_ref(&range)).await?;
        Ok(all.pop().unwrap_or_default())
    }

    /// Ranges of an object, in the order asked for. Empty ranges read nothing.
    ///
    /// # Errors
    /// As for [`Lake::range`].
    pub async fn ranges(&self, object: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, LakeError> {
        let wanted: Vec<Range<u64>> = ranges.iter().filter(|r| !r.is_empty()).cloned().collect();
        let read = if wanted.is_empty() {
            Vec::new()
        } else {
            self.store.get_ranges(object, &wanted).await.map_err(|e| LakeError::store(object, e))?
        };
        metrics::lake_read(read.iter().map(Bytes::len).sum());
        let mut read = read.into_iter();
        Ok(ranges.iter().map(|r| if r.is_empty() { Bytes::new() } else { read.next().unwrap_or_default() }).collect())
    }

    /// The last `bytes` of an object (all of it where it is shorter), and the object's length.
    ///
    /// # Errors
    /// Not found, or the store failed.
    pub async fn suffix(&self, object: &Path, bytes: u64) -> Result<(Bytes, u64), LakeError> {
        let options = GetOptions { range: Some(GetRange::Suffix(bytes)), ..GetOptions::default() };
        let got = self.store.get_opts(object, options).await.map_err(|e| LakeError::store(object, e))?;
        let len = got.meta.size;
        let read = got.bytes().await.map_err(|e| LakeError::store(object, e))?;
        metrics::lake_read(read.len());
        Ok((read, len))
    }

    /// A whole object of at most `bytes_max`.
    ///
    /// # Errors
    /// Not found, larger, or the store failed.
    pub async fn get(&self, object: &Path, bytes_max: u64) -> Result<Bytes, LakeError> {
        let got = self.store.get(object).await.map_err(|e| LakeError::store(object, e))?;
        let bytes = got.meta.size;
        if bytes > bytes_max {
            return Err(LakeError::TooLarge { what: "an object", bytes, bytes_max });
        }
        let read = got.bytes().await.map_err(|e| LakeError::store(object, e))?;
        metrics::lake_read(read.len());
        Ok(read)
    }

    /// All objects below `prefix`, in no order.
    pub fn list(&self, prefix: &Path) -> BoxStream<'static, Result<ObjectMeta, LakeError>> {
        let named = prefix.clone();
        self.store.list(Some(prefix)).map_err(move |e| LakeError::store(&named, e)).boxed()
    }

    /// Names of the directories just below `prefix`, in no order.
    ///
    /// # Errors
    /// The store failed.
    pub async fn directories(&self, prefix: &Path) -> Result<Vec<Path>, LakeError> {
        let listed = self.store.list_with_delimiter(Some(prefix)).await.map_err(|e| LakeError::store(prefix, e))?;
        Ok(listed.common_prefixes)
    }

    /// Removes all objects below `prefix`; none is no error.
    ///
    /// # Errors
    /// The store failed; some may be left, and doing it again goes on.
    pub async fn remove_all(&self, prefix: &Path) -> Result<(), LakeError> {
        let found = self.store.list(Some(prefix)).map_ok(|meta| meta.location).boxed();
        self.store
            .delete_stream(found)
            .try_for_each(|_| async { Ok(()) })
            .await
            .map_err(|e| LakeError::store(prefix, e))
    }

    /// Removes an object; none is no error.
    ///
    /// # Errors
    /// The store failed.
    pub async fn remove(&self, object: &Path) -> Result<(), LakeError> {
        match self.store.delete(object).await {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(LakeError::store(object, error)),
        }
    }

    /// Moves a damaged object aside and says so. The object is no longer found under its name, so that its data can be
    /// put again.
    pub async fn quarantine(&self, object: &Path, item: Option<u32>, what: impl Into<String>) -> LakeError {
        let what = what.into();
        let aside = object.parts().fold(Path::from(QUARANTINE), |path, part| path.join(part));
        // Another reader may have moved it already. Where moving fails, the damage is still what the caller must know.
        match self.store.rename(object, &aside).await {
            Ok(()) | Err(Error::NotFound { .. }) => {}
            Err(error) => tracing::error!(%object, %error, "could not move a damaged object to quarantine"),
        }
        tracing::error!(%object, item, %what, "damaged object");
        LakeError::Damaged { object: object.to_string(), item, what, quarantine: aside.to_string() }
    }
}
