//! Segments of a file version: one object each, whole or absent, so that the durable ranges of a transfer are the
//! objects that are there and progress needs no database.
//!
//! An object is `data ‖ values ‖ footer`: the segment's bytes, one 32-byte value for each item of the plan, and
//! [`FOOTER_BYTES`] that bind them to their transfer and place. Numbers are little-endian.
//!
//! | offset in the footer | bytes | what |
//! |---|---|---|
//! | 0 | 8 | `LINGQUSG` |
//! | 8 | 2 | format version, 1 |
//! | 10 | 2 | algorithm of values and digest, 1 = BLAKE3 |
//! | 12 | 4 | items |
//! | 16 | 8 | bytes of data |
//! | 24 | 16 | transfer id |
//! | 40 | 4 | segment |
//! | 44 | 4 | zero |
//! | 48 | 32 | digest of values ‖ footer up to here |
//!
//! A flipped bit is found wherever it is: in the data by the item's value, elsewhere by the footer's digest.

use super::error::LakeError;
use super::store::Lake;
use bytes::{BufMut, Bytes, BytesMut};
use futures::TryStreamExt;
use lingqu_protocol::digest::{ChunkHasher, ChunkValue, chunk_value};
use lingqu_protocol::ids::TransferId;
use lingqu_protocol::plan::{Item, Plan};
use object_store::path::Path;
use std::borrow::Cow;
use std::ops::Range;

/// Bytes in a footer.
pub const FOOTER_BYTES: u64 = 80;

const MAGIC: &[u8; 8] = b"LINGQUSG";
const VERSION: u16 = 1;
const BLAKE3: u16 = 1;
const VALUE_BYTES: usize = 32;

/// Prefix of all file versions.
pub const FILES: &str = "files";

/// A received segment whose every item fits its value: what may be put.
#[derive(Clone, Debug)]
pub struct VerifiedSegment {
    segment: u32,
    data: Vec<Bytes>,
    values: Vec<ChunkValue>,
}

impl VerifiedSegment {
    /// Checks a received segment: `data` are its bytes in order, however they are cut, and `values` one for each item.
    /// Hashes all of it: megabytes belong on a blocking thread.
    ///
    /// # Errors
    /// [`LakeError::BadData`] names the item that does not fit.
    pub fn check(plan: &Plan, segment: u32, data: Vec<Bytes>, values: Vec<ChunkValue>) -> Result<Self, LakeError> {
        let items = plan.items(segment).ok_or_else(|| bad(format!("the plan has no segment {segment}")))?;
        if items.len() != values.len() {
            return Err(bad(format!("segment {segment} has {} items and {} values", items.len(), values.len())));
        }
        let bytes: u64 = data.iter().map(|piece| piece.len() as u64).sum();
        if Some(bytes) != plan.segment_bytes(segment) {
            return Err(bad(format!("segment {segment} has the wrong length, {bytes} bytes")));
        }
        for (index, (item, value)) in items.iter().zip(&values).enumerate() {
            let content = gather(&data, item.segment_offset, item.bytes as usize);
            if !fits(plan, item, &content, value) {
                return Err(bad(format!("item {index} of segment {segment} does not fit its value")));
            }
        }
        Ok(Self { segment, data, values })
    }

    /// Its index.
    pub const fn segment(&self) -> u32 {
        self.segment
    }

    /// Its items' values.
    pub fn values(&self) -> &[ChunkValue] {
        &self.values
    }
}

/// Which segments of a transfer are durable: one bit each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Durable {
    bits: Vec<u64>,
    segments: u32,
    count: u32,
}

impl Durable {
    fn none(segments: u32) -> Self {
        Self { bits: vec![0; (segments as usize).div_ceil(64)], segments, count: 0 }
    }

    fn insert(&mut self, segment: u32) {
        if let Some(word) = self.bits.get_mut(segment as usize / 64) {
            let bit = 1 << (segment % 64);
            self.count += u32::from(*word & bit == 0);
            *word |= bit;
        }
    }

    /// Whether this one is.
    pub fn contains(&self, segment: u32) -> bool {
        self.bits.get(segment as usize / 64).is_some_and(|word| word >> (segment % 64) & 1 == 1)
    }

    /// How many are.
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// Whether all of the plan's are.
    pub const fn is_complete(&self) -> bool {
        self.count == self.segments
    }

    /// Those that are, in order.
    pub fn present(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.segments).filter(|segment| self.contains(*segment))
    }

    /// Those that are not, in order.
    pub fn missing(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.segments).filter(|segment| !self.contains(*segment))
    }
}

/// Segments of file versions in the lake.
#[derive(Clone, Debug)]
pub struct SegmentStore {
    lake: Lake,
}

impl SegmentStore {
    /// In this lake.
    pub const fn new(lake: Lake) -> Self {
        Self { lake }
    }

    /// Puts a segment; when this returns it survives power loss. The same one again is no error.
    ///
    /// # Errors
    /// [`LakeError::Conflict`] where the segment is there with other content; no room; the store failed.
    pub async fn put(&self, transfer: TransferId, segment: VerifiedSegment) -> Result<(), LakeError> {
        let object = object(transfer, segment.segment);
        if self.lake.len(&object).await?.is_some() && self.is_same(transfer, &segment).await? {
            return Ok(());
        }
        let mut pieces = segment.data.clone();
        let data_bytes: u64 = pieces.iter().map(|piece| piece.len() as u64).sum();
        pieces.push(seal(transfer, segment.segment, data_bytes, &segment.values));
        if self.lake.put_new(&object, pieces).await? || self.is_same(transfer, &segment).await? {
            return Ok(());
        }
        Err(LakeError::Conflict { object: object.to_string() })
    }

    /// Which segments of a transfer are durable, from the objects that are there. One of a wrong length is moved to
    /// quarantine and does not count.
    ///
    /// # Errors
    /// The store failed.
    pub async fn durable(&self, transfer: TransferId, plan: &Plan) -> Result<Durable, LakeError> {
        let mut durable = Durable::none(plan.segments());
        let mut objects = self.lake.list(&directory(transfer));
        while let Some(meta) = objects.try_next().await? {
            let Some(segment) = meta.location.filename().and_then(|name| name.parse::<u32>().ok()) else { continue };
            let expected = plan.items(segment).map(|items| object_bytes(&items));
            if meta.location == object(transfer, segment) && expected == Some(meta.size) {
                durable.insert(segment);
            } else {
                // Logged where it is moved; for the sender it is just not there.
                let _ = self.lake.quarantine(&meta.location, None, format!("{} bytes long", meta.size)).await;
            }
        }
        Ok(durable)
    }

    /// The values of a durable segment's items.
    ///
    /// # Errors
    /// Not found; damaged, and moved to quarantine; the store failed.
    pub async fn values(&self, transfer: TransferId, plan: &Plan, segment: u32) -> Result<Vec<ChunkValue>, LakeError> {
        let items = plan.items(segment).ok_or_else(|| bad(format!("the plan has no segment {segment}")))?;
        let data_bytes = items.iter().map(|item| u64::from(item.bytes)).sum();
        self.tail(transfer, segment, items.len(), data_bytes).await
    }

    /// Opens a durable segment for reading.
    ///
    /// # Errors
    /// As for [`SegmentStore::values`].
    pub async fn open<'a>(
        &self,
        transfer: TransferId,
        plan: &'a Plan,
        segment: u32,
    ) -> Result<SegmentReader<'a>, LakeError> {
        let values = self.values(transfer, plan, segment).await?;
        let items = plan.items(segment).unwrap_or_default();
        Ok(SegmentReader { lake: self.lake.clone(), object: object(transfer, segment), plan, items, values })
    }

    /// Removes all objects of a transfer, durably.
    ///
    /// # Errors
    /// The store failed; doing it again goes on.
    pub async fn remove(&self, transfer: TransferId) -> Result<(), LakeError> {
        self.lake.remove_all(&directory(transfer)).await
    }

    /// Whether the object that is there holds this segment. One that is damaged is moved aside, and then the answer is
    /// no.
    async fn is_same(&self, transfer: TransferId, segment: &VerifiedSegment) -> Result<bool, LakeError> {
        let data_bytes = segment.data.iter().map(|piece| piece.len() as u64).sum();
        match self.tail(transfer, segment.segment, segment.values.len(), data_bytes).await {
            Ok(values) => Ok(values == segment.values),
            Err(LakeError::Damaged { .. } | LakeError::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn tail(
        &self,
        transfer: TransferId,
        segment: u32,
        items: usize,
        data_bytes: u64,
    ) -> Result<Vec<ChunkValue>, LakeError> {
        let object = object(transfer, segment);
        let tail_bytes = (items * VALUE_BYTES) as u64 + FOOTER_BYTES;
        let (tail, object_bytes) = self.lake.suffix(&object, tail_bytes).await?;
        let values = unseal(&tail, transfer, segment, data_bytes);
        match values.filter(|_| object_bytes == data_bytes + tail_bytes) {
            Some(values) => Ok(values),
            None => Err(self.lake.quarantine(&object, None, "its values or footer").await),
        }
    }
}

/// Reads one segment, item by item, each checked against its value.
#[derive(Debug)]
pub struct SegmentReader<'a> {
    lake: Lake,
    object: Path,
    plan: &'a Plan,
    items: Vec<Item>,
    values: Vec<ChunkValue>,
}

impl SegmentReader<'_> {
    /// The segment's items, in order.
    pub fn items(&self) -> &[Item] {
        &self.items
    }

    /// The items' values, in order.
    pub fn values(&self) -> &[ChunkValue] {
        &self.values
    }

    /// Item `index`, to be read piece by piece.
    ///
    /// # Errors
    /// There is none.
    pub fn item(&self, index: u32) -> Result<ItemReader<'_>, LakeError> {
        let at = index as usize;
        let (Some(item), Some(value)) = (self.items.get(at), self.values.get(at)) else {
            return Err(bad(format!("segment has no item {index}")));
        };
        let file_bytes = self.plan.sizes().get(item.file as usize).copied().unwrap_or(0);
        Ok(ItemReader {
            segment: self,
            index,
            value: *value,
            left: item.segment_offset..item.segment_offset + u64::from(item.bytes),
            hasher: ChunkHasher::new(item.chunk, file_bytes),
        })
    }

    /// The bytes of item `index`, as they were put.
    ///
    /// # Errors
    /// [`LakeError::Damaged`] names object and item, and the object is in quarantine; the store failed.
    pub async fn read_item(&self, index: u32) -> Result<Bytes, LakeError> {
        self.item(index)?.next(usize::MAX).await
    }
}

/// Reads one item of a segment. Its end is given out only where all of it fits its value: who passes on what comes, as it
/// comes, passes on no whole item that is damaged.
#[derive(Debug)]
pub struct ItemReader<'a> {
    segment: &'a SegmentReader<'a>,
    index: u32,
    value: ChunkValue,
    /// Where in the object the bytes lie that were not read yet.
    left: Range<u64>,
    hasher: ChunkHasher,
}

impl ItemReader<'_> {
    /// Whether all of it was read.
    pub fn is_at_end(&self) -> bool {
        self.left.is_empty()
    }

    /// The bytes that follow, `bytes_max` of them or what is left; none at the end, and of an empty item.
    ///
    /// # Errors
    /// [`LakeError::Damaged`] names object and item, and the object is in quarantine; the store failed.
    pub async fn next(&mut self, bytes_max: usize) -> Result<Bytes, LakeError> {
        let end = self.left.end.min(self.left.start.saturating_add(bytes_max.max(1) as u64));
        let SegmentReader { lake, object, .. } = self.segment;
        let wanted = self.left.start..end;
        let data = lake.range(object, wanted.clone()).await?;
        self.hasher.update(&data);
        self.left.start = end;
        let is_short = data.len() as u64 != wanted.end - wanted.start;
        if is_short || (self.left.is_empty() && self.hasher.value() != self.value) {
            return Err(lake.quarantine(object, Some(self.index), "an item does not fit its value").await);
        }
        Ok(data)
    }
}

/// Where a transfer's objects are.
pub(crate) fn directory(transfer: TransferId) -> Path {
    Path::from(FILES).join(transfer.to_string())
}

fn object(transfer: TransferId, segment: u32) -> Path {
    directory(transfer).join(format!("{segment:08}"))
}

fn object_bytes(items: &[Item]) -> u64 {
    items.iter().map(|item| u64::from(item.bytes) + VALUE_BYTES as u64).sum::<u64>() + FOOTER_BYTES
}

fn seal(transfer: TransferId, segment: u32, data_bytes: u64, values: &[ChunkValue]) -> Bytes {
    let mut tail = BytesMut::with_capacity(values.len() * VALUE_BYTES + FOOTER_BYTES as usize);
    values.iter().for_each(|value| tail.put_slice(value));
    tail.put_slice(MAGIC);
    tail.put_u16_le(VERSION);
    tail.put_u16_le(BLAKE3);
    tail.put_u32_le(values.len() as u32);
    tail.put_u64_le(data_bytes);
    tail.put_u128_le(transfer.bits());
    tail.put_u32_le(segment);
    tail.put_u32_le(0);
    let digest = blake3::hash(&tail);
    tail.put_slice(digest.as_bytes());
    tail.freeze()
}

/// The values in a tail, where it is exactly what [`seal`] makes for this place.
fn unseal(tail: &[u8], transfer: TransferId, segment: u32, data_bytes: u64) -> Option<Vec<ChunkValue>> {
    let sealed = tail.len().checked_sub(FOOTER_BYTES as usize)?;
    let values: Vec<ChunkValue> =
        tail.get(..sealed)?.chunks_exact(VALUE_BYTES).filter_map(|value| value.try_into().ok()).collect();
    (seal(transfer, segment, data_bytes, &values) == tail).then_some(values)
}

fn fits(plan: &Plan, item: &Item, data: &[u8], value: &ChunkValue) -> bool {
    let file_bytes = plan.sizes().get(item.file as usize).copied().unwrap_or(0);
    data.len() == item.bytes as usize && chunk_value(data, item.chunk, file_bytes) == *value
}

/// `len` bytes at `offset` of what the pieces are together; copied only where a piece ends within them.
fn gather(pieces: &[Bytes], offset: u64, len: usize) -> Cow<'_, [u8]> {
    let mut skip = offset;
    let mut copied: Vec<u8> = Vec::new();
    for piece in pieces {
        let Some(rest) = usize::try_from(skip).ok().and_then(|skip| piece.get(skip..)) else {
            skip -= piece.len() as u64;
            continue;
        };
        skip = 0;
        if copied.is_empty() && rest.len() >= len {
            return Cow::Borrowed(rest.get(..len).unwrap_or_default());
        }
        copied.extend_from_slice(rest.get(..len - copied.len()).unwrap_or(rest));
        if copied.len() == len {
            break;
        }
    }
    Cow::Owned(copied)
}

fn bad(what: String) -> LakeError {
    LakeError::BadData { what }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn items_are_gathered_from_any_cut(data in prop::collection::vec(any::<u8>(), 0..200), cuts in prop::collection::vec(1usize..40, 1..20), at in 0usize..200, len in 0usize..200) {
            let mut pieces = Vec::new();
            let mut rest = Bytes::from(data.clone());
            for cut in cuts {
                pieces.push(rest.split_to(cut.min(rest.len())));
            }
            pieces.push(rest);
            let at = at.min(data.len());
            let len = len.min(data.len() - at);
            let gathered = gather(&pieces, at as u64, len);
            prop_assert_eq!(gathered.as_ref(), &data[at..at + len]);
        }

        #[test]
        fn a_tail_opens_for_its_own_place_alone(values: Vec<[u8; 32]>, flip in any::<prop::sample::Index>(), bit in 0u8..8) {
            let transfer = TransferId::from_bits(7);
            let mut tail = seal(transfer, 3, 99, &values).to_vec();
            prop_assert_eq!(unseal(&tail, transfer, 3, 99), Some(values));
            prop_assert_eq!(unseal(&tail, transfer, 4, 99), None);
            prop_assert_eq!(unseal(&tail, TransferId::from_bits(8), 3, 99), None);
            prop_assert_eq!(unseal(&tail, transfer, 3, 98), None);
            let at = flip.index(tail.len());
            tail[at] ^= 1 << bit;
            prop_assert_eq!(unseal(&tail, transfer, 3, 99), None);
        }
    }

    #[test]
    fn the_footer_has_the_length_that_it_says() {
        assert_eq!(seal(TransferId::from_bits(1), 0, 0, &[]).len() as u64, FOOTER_BYTES);
    }

    #[test]
    fn a_segment_that_does_not_fit_its_plan_or_values_is_named() {
        let plan = Plan::new(vec![3, 0, 2]).unwrap();
        let data = vec![Bytes::from_static(b"ab"), Bytes::from_static(b"cde")];
        let values = vec![chunk_value(b"abc", 0, 3), chunk_value(b"", 0, 0), chunk_value(b"de", 0, 2)];
        assert!(VerifiedSegment::check(&plan, 0, data.clone(), values.clone()).is_ok());
        let mut wrong = values.clone();
        wrong[2][0] ^= 1;
        let error = VerifiedSegment::check(&plan, 0, data.clone(), wrong).unwrap_err().to_string();
        assert!(error.contains("item 2 of segment 0"), "{error}");
        assert!(VerifiedSegment::check(&plan, 0, data[..1].to_vec(), values.clone()).is_err());
        assert!(VerifiedSegment::check(&plan, 0, data.clone(), values[..2].to_vec()).is_err());
        assert!(VerifiedSegment::check(&plan, 1, data, values).is_err());
    }
}
