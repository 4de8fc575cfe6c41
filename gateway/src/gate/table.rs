//! A map that two snapshots share all but the changed pieces of. Entries lie in leaves of some tens, by the upper bits of
//! their hash, and in a leaf by the lower ones: a look-up reads one place of memory that is not in the cache anyway, and
//! a change copies one leaf and the pointers on the way to it.

use foldhash::fast::RandomState;
use std::fmt;
use std::hash::{BuildHasher, Hash};
use std::sync::Arc;

/// Entries of a leaf in the mean: what a change copies, against the pointers that have to stay in the cache.
const LEAF_ENTRIES_MEAN: usize = 32;

/// Leaves under one pointer of the root: a change copies this many pointers, and twice as many of the root for a million
/// entries.
const CHUNK_LEAVES: usize = 128;

/// What an entry is found by.
pub(super) trait Keyed {
    /// The key's type.
    type Key: Hash + Eq;
    /// The key, which never changes.
    fn key(&self) -> &Self::Key;
}

impl<K: Hash + Eq, V> Keyed for (K, V) {
    type Key = K;
    fn key(&self) -> &K {
        &self.0
    }
}

/// The places of a leaf; at least one in three is free, so that a search ends soon.
type Leaf<V> = Arc<[Option<V>]>;

/// The map. Cloning it copies a pointer.
#[derive(Clone)]
pub(super) struct Table<V> {
    chunks: Arc<[Arc<[Leaf<V>]>]>,
    /// There are two to this many leaves.
    bits: u32,
    entries: usize,
    hasher: RandomState,
}

impl<V> Default for Table<V> {
    fn default() -> Self {
        // A seed of this process's own: nobody can choose ids that all fall into one leaf.
        Self { chunks: empty(0), bits: 0, entries: 0, hasher: RandomState::default() }
    }
}

impl<V> fmt::Debug for Table<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} entries", self.entries)
    }
}

impl<V: Keyed + Clone> Table<V> {
    /// How many entries there are.
    pub(super) fn len(&self) -> usize {
        self.entries
    }

    /// The entry of a key.
    pub(super) fn get(&self, key: &V::Key) -> Option<&V> {
        let hash = self.hasher.hash_one(key);
        let (chunk, leaf) = self.place(hash);
        let leaf = self.chunks.get(chunk)?.get(leaf)?;
        match leaf.get(search(leaf, hash, key)?)? {
            Some(found) => Some(found),
            None => None,
        }
    }

    /// All entries, in no order.
    #[cfg(test)]
    fn iter(&self) -> impl Iterator<Item = &V> {
        self.chunks.iter().flat_map(|chunk| chunk.iter()).flat_map(|leaf| leaf.iter()).flatten()
    }

    /// Puts an entry in the place of the one with its key.
    pub(super) fn insert(&mut self, value: V) {
        if self.entries >= LEAF_ENTRIES_MEAN << self.bits {
            self.grow();
        }
        self.put(value);
    }

    /// Takes an entry out.
    pub(super) fn remove(&mut self, key: &V::Key) {
        if self.get(key).is_none() {
            return;
        }
        let hash = self.hasher.hash_one(key);
        let Some(leaf) = self.leaf_mut(hash) else { return };
        // Those behind it were put where they are because of it: the leaf is put together anew.
        let rest: Vec<V> = leaf.iter().flatten().filter(|v| v.key() != key).cloned().collect();
        let hasher = self.hasher.clone();
        let made = leaf_of(rest, &hasher);
        if let Some(leaf) = self.leaf_mut(hash) {
            *leaf = made;
        }
        self.entries -= 1;
    }

    fn put(&mut self, value: V) {
        let hash = self.hasher.hash_one(value.key());
        let hasher = self.hasher.clone();
        let Some(leaf) = self.leaf_mut(hash) else { return };
        let place = search(leaf, hash, value.key());
        let is_new = !place.is_some_and(|place| leaf.get(place).is_some_and(Option::is_some));
        let used = leaf.iter().flatten().count();
        match place {
            Some(place) if !is_new || (used + 1) * 3 <= leaf.len() * 2 => {
                if let Some(slot) = Arc::make_mut(leaf).get_mut(place) {
                    *slot = Some(value);
                }
            }
            _ => *leaf = leaf_of(leaf.iter().flatten().cloned().chain([value]).collect(), &hasher),
        }
        self.entries += usize::from(is_new);
    }

    fn grow(&mut self) {
        let old = std::mem::replace(&mut self.chunks, empty(self.bits + 1));
        self.bits += 1;
        self.entries = 0;
        for entry in old.iter().flat_map(|chunk| chunk.iter()).flat_map(|leaf| leaf.iter()).flatten() {
            self.put(entry.clone());
        }
    }

    fn leaf_mut(&mut self, hash: u64) -> Option<&mut Leaf<V>> {
        let (chunk, leaf) = self.place(hash);
        Arc::make_mut(Arc::make_mut(&mut self.chunks).get_mut(chunk)?).get_mut(leaf)
    }

    /// Which leaf of which chunk.
    fn place(&self, hash: u64) -> (usize, usize) {
        let leaf = if self.bits == 0 { 0 } else { (hash >> (64 - self.bits)) as usize };
        (leaf / CHUNK_LEAVES, leaf % CHUNK_LEAVES)
    }
}

fn empty<V>(bits: u32) -> Arc<[Arc<[Leaf<V>]>]> {
    let leaves = 1usize << bits;
    let leaf: Leaf<V> = Arc::from([]);
    let chunk: Arc<[Leaf<V>]> = std::iter::repeat_n(leaf, leaves.min(CHUNK_LEAVES)).collect();
    std::iter::repeat_n(chunk, leaves.div_ceil(CHUNK_LEAVES)).collect()
}

/// Where a key is, or where it would be put; `None` in a leaf without places.
fn search<V: Keyed>(leaf: &[Option<V>], hash: u64, key: &V::Key) -> Option<usize> {
    let first = ((hash & u64::from(u32::MAX)) as usize * leaf.len()) >> 32;
    let free_or_found = |slot: &Option<V>| slot.as_ref().is_none_or(|found| found.key() == key);
    let (before, after) = leaf.split_at_checked(first)?;
    let ahead = after.iter().position(free_or_found).map(|place| first + place);
    ahead.or_else(|| before.iter().position(free_or_found))
}

/// A leaf of these, half of whose places are free.
fn leaf_of<V: Keyed>(entries: Vec<V>, hasher: &RandomState) -> Leaf<V> {
    let mut places: Vec<Option<V>> = std::iter::repeat_with(|| None).take(entries.len() * 2).collect();
    for entry in entries {
        let place = search(&places, hasher.hash_one(entry.key()), entry.key());
        if let Some(slot) = place.and_then(|place| places.get_mut(place)) {
            *slot = Some(entry);
        }
    }
    places.into()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    #[derive(Clone, Debug)]
    enum Act {
        Insert(u16, u32),
        Remove(u16),
        /// Keeps a copy, which must stay as it is.
        Keep,
    }

    fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            8 => (0u16..600, any::<u32>()).prop_map(|(k, v)| Act::Insert(k, v)),
            2 => (0u16..600).prop_map(Act::Remove),
            1 => Just(Act::Keep),
        ]
    }

    fn same(table: &Table<(u16, u32)>, map: &HashMap<u16, u32>) {
        assert_eq!(table.len(), map.len());
        assert_eq!(table.iter().copied().collect::<HashMap<_, _>>(), *map);
        for key in 0..600 {
            assert_eq!(table.get(&key).map(|e| e.1), map.get(&key).copied(), "{key}");
        }
    }

    proptest! {
        #[test]
        fn it_is_a_map_and_copies_are_left_alone(acts in prop::collection::vec(act(), 0..800)) {
            let (mut table, mut map) = (Table::default(), HashMap::new());
            let mut kept = Vec::new();
            for act in acts {
                match act {
                    Act::Insert(k, v) => {
                        table.insert((k, v));
                        map.insert(k, v);
                    }
                    Act::Remove(k) => {
                        table.remove(&k);
                        map.remove(&k);
                    }
                    Act::Keep => kept.push((table.clone(), map.clone())),
                }
            }
            same(&table, &map);
            for (table, map) in &kept {
                same(table, map);
            }
        }
    }

    #[test]
    fn a_change_shares_all_but_one_leaf() {
        let mut table = Table::default();
        (0..100_000u32).for_each(|k| table.insert((k, 0)));
        let before = table.clone();
        table.insert((7, 1));
        let leaves = |t: &Table<(u32, u32)>| -> Vec<Leaf<(u32, u32)>> {
            t.chunks.iter().flat_map(|c| c.iter().cloned()).collect()
        };
        let (old, new) = (leaves(&before), leaves(&table));
        assert_eq!(old.iter().zip(&new).filter(|(a, b)| !Arc::ptr_eq(a, b)).count(), 1);
        let longest = new.iter().map(|leaf| leaf.len()).max().unwrap();
        assert!(longest < 8 * LEAF_ENTRIES_MEAN, "{longest} places in one leaf");
    }

    #[test]
    fn one_place_in_three_is_free() {
        let mut table = Table::default();
        for key in 0..5_000u32 {
            table.insert((key, 0));
            if key % 97 == 0 {
                let mut leaves = table.chunks.iter().flat_map(|chunk| chunk.iter());
                assert!(leaves.all(|leaf| leaf.iter().flatten().count() * 3 <= leaf.len() * 2), "after {key}");
            }
        }
    }

    #[test]
    fn a_leaf_is_made_anew_only_where_too_few_of_its_places_would_stay_free() {
        let mut table = Table::default();
        let mut places = Vec::new();
        for key in 0..14u32 {
            table.insert((key, 0));
            places.push(table.chunks[0][0].len());
            // The same key again lies where it lay, however full the leaf is.
            table.insert((key, 1));
            assert_eq!(table.chunks[0][0].len(), places[key as usize]);
        }
        assert_eq!(places, [2, 4, 6, 6, 10, 10, 14, 14, 14, 20, 20, 20, 20, 28]);
        assert_eq!(format!("{table:?}"), "14 entries");
    }

    #[test]
    fn keys_lie_all_over_their_leaf() {
        let mut table = Table::default();
        (0..20_000u32).for_each(|k| table.insert((k, 0)));
        let leaves = table.chunks.iter().flat_map(|chunk| chunk.iter());
        let in_front: usize = leaves.map(|leaf| leaf[..leaf.len() / 2].iter().flatten().count()).sum();
        assert!((9_000..11_000).contains(&in_front), "{in_front} of 20,000: a search would begin with others' keys");
    }
}
