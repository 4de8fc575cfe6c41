//! A map that two snapshots share all but the changed pieces of. Entries lie side by side in leaves of some ten, by the
//! upper bits of their hash; beside the pointer to a leaf stands which of its entries a hash's lowest bits mean. A look-up
//! reads those, which are in the cache as the pointers are, and then one place of memory that is not in the cache anyway,
//! without looking at the entries beside it; a change copies one leaf and the pointers with their places on the way to it.

use foldhash::quality::RandomState;
use std::fmt;
use std::hash::{BuildHasher, Hash};
use std::sync::Arc;

/// Entries of a leaf in the mean, at most: what a change copies, against the pointers that have to stay in the cache.
const LEAF_ENTRIES_MEAN: usize = 16;

/// Places beside the pointer to a leaf: one in two is free in the mean, so that a search ends soon.
const PLACES: usize = 32;

/// Entries of a leaf that have a place: a search ends at a free one. What else a leaf has, as one leaf of ten thousand
/// does, is looked through.
const PLACED: usize = PLACES - 1;

// A hash's lowest bits mean a place, and a byte an entry.
const _: () = assert!(PLACES.is_power_of_two() && PLACES <= 256);

/// Leaves under one pointer of the root: a change copies this many pointers with their places, ten kilobytes, and as much of
/// the root for a million entries.
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

/// Entries whose hashes begin alike, and what a pointer to them has beside it.
#[derive(Clone)]
struct Leaf<V> {
    /// Where the last bits of a hash begin to look for its entry.
    places: [Place; PLACES],
    entries: Arc<[V]>,
}

/// A place beside the pointer to a leaf.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Place {
    /// The next bits of the hash, so that another's entry is hardly ever read.
    tag: u8,
    /// Which entry, counted from 1; 0 is free.
    number: u8,
}

impl<V> Default for Leaf<V> {
    fn default() -> Self {
        Self { places: [Place::default(); PLACES], entries: Arc::from([]) }
    }
}

impl<V: Keyed + Clone> Leaf<V> {
    fn of(entries: Arc<[V]>, hasher: &RandomState) -> Self {
        let mut places = [Place::default(); PLACES];
        for (entry, number) in entries.iter().zip(1..=PLACED as u8) {
            let hash = hasher.hash_one(entry.key());
            let free = probed(hash).find(|at| places.get(*at).is_some_and(|place| place.number == 0));
            if let Some(place) = free.and_then(|at| places.get_mut(at)) {
                *place = Place { tag: tag(hash), number };
            }
        }
        Self { places, entries }
    }

    /// Where the entry of a key is.
    fn find(&self, hash: u64, key: &V::Key) -> Option<usize> {
        let is_it = |at: usize| self.entries.get(at).is_some_and(|entry| entry.key() == key);
        for place in probed(hash).filter_map(|at| self.places.get(at)) {
            match usize::from(place.number).checked_sub(1) {
                None => break,
                Some(at) if place.tag == tag(hash) && is_it(at) => return Some(at),
                Some(_) => {}
            }
        }
        (PLACED..self.entries.len()).find(|at| is_it(*at))
    }

    /// The two that this becomes where one bit more tells them apart.
    fn split(&self, bits: u32, hasher: &RandomState) -> [Self; 2] {
        let is_right = |entry: &V| hasher.hash_one(entry.key()) >> (63 - bits) & 1 == 1;
        let (right, left): (Vec<V>, Vec<V>) = self.entries.iter().cloned().partition(is_right);
        [left, right].map(|entries| Self::of(entries.into(), hasher))
    }
}

/// All places, the one that a hash means first.
fn probed(hash: u64) -> impl Iterator<Item = usize> {
    (0..PLACES).map(move |step| (hash as usize).wrapping_add(step) % PLACES)
}

fn tag(hash: u64) -> u8 {
    (hash >> PLACES.trailing_zeros()) as u8
}

/// The map. Cloning it copies a pointer.
#[derive(Clone)]
pub(super) struct Table<V> {
    chunks: Arc<[Arc<[Leaf<V>]>]>,
    /// There are two to this many leaves.
    bits: u32,
    entries: usize,
    /// Of good quality: leaves are chosen by its upper bits, places by its lowest, and tags by the next.
    hasher: RandomState,
}

impl<V> Default for Table<V> {
    fn default() -> Self {
        // A seed of this process's own: nobody can choose ids that all fall into one leaf.
        Self { chunks: Arc::from([Arc::from([Leaf::default()])]), bits: 0, entries: 0, hasher: RandomState::default() }
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
        leaf.entries.get(leaf.find(hash, key)?)
    }

    /// All entries, in no order.
    #[cfg(test)]
    fn iter(&self) -> impl Iterator<Item = &V> {
        self.chunks.iter().flat_map(|chunk| chunk.iter()).flat_map(|leaf| leaf.entries.iter())
    }

    /// Puts an entry in the place of the one with its key.
    pub(super) fn insert(&mut self, value: V) {
        if self.entries >= LEAF_ENTRIES_MEAN << self.bits && self.get(value.key()).is_none() {
            self.grow();
        }
        let (hash, hasher) = (self.hasher.hash_one(value.key()), self.hasher.clone());
        let Some(leaf) = self.leaf_mut(hash) else { return };
        let known = leaf.find(hash, value.key());
        match known.and_then(|at| Arc::make_mut(&mut leaf.entries).get_mut(at)) {
            Some(slot) => *slot = value,
            None => {
                *leaf = Leaf::of(leaf.entries.iter().cloned().chain([value]).collect(), &hasher);
                self.entries += 1;
            }
        }
    }

    /// Takes an entry out.
    pub(super) fn remove(&mut self, key: &V::Key) {
        if self.get(key).is_none() {
            return;
        }
        let (hash, hasher) = (self.hasher.hash_one(key), self.hasher.clone());
        if let Some(leaf) = self.leaf_mut(hash) {
            *leaf = Leaf::of(leaf.entries.iter().filter(|v| v.key() != key).cloned().collect(), &hasher);
            self.entries -= 1;
        }
    }

    fn grow(&mut self) {
        let leaves = self.chunks.iter().flat_map(|chunk| chunk.iter());
        let leaves: Vec<_> = leaves.flat_map(|leaf| leaf.split(self.bits, &self.hasher)).collect();
        self.chunks = leaves.chunks(CHUNK_LEAVES).map(Arc::from).collect();
        self.bits += 1;
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
        let leaves = |t: &Table<(u32, u32)>| -> Vec<Arc<[(u32, u32)]>> {
            t.chunks.iter().flat_map(|c| c.iter().map(|leaf| Arc::clone(&leaf.entries))).collect()
        };
        let (old, new) = (leaves(&before), leaves(&table));
        assert_eq!(old.iter().zip(&new).filter(|(a, b)| !Arc::ptr_eq(a, b)).count(), 1);
        assert_eq!(old.len(), 8_192, "at most {LEAF_ENTRIES_MEAN} in each, in the mean");
        let chunks = before.chunks.iter().zip(table.chunks.iter());
        assert_eq!(chunks.filter(|(a, b)| !Arc::ptr_eq(a, b)).count(), 1);
        assert_eq!(table.chunks.len(), 8_192 / CHUNK_LEAVES);
        let longest = new.iter().map(|leaf| leaf.len()).max().unwrap();
        assert!(longest < 4 * LEAF_ENTRIES_MEAN, "{longest} in one leaf");
    }

    #[test]
    fn what_is_put_again_is_not_counted_again() {
        let mut table = Table::default();
        for key in 0..LEAF_ENTRIES_MEAN as u32 {
            table.insert((key, 0));
            table.insert((key, 1));
        }
        assert_eq!((format!("{table:?}"), table.bits), ("16 entries".to_owned(), 0));
        table.remove(&99);
        table.insert((99, 0));
        assert_eq!((table.len(), table.bits), (17, 1));
        table.remove(&99);
        assert_eq!((table.len(), table.get(&99)), (16, None));
    }

    /// A key whose hash is what the test says.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Same(u32);

    impl Keyed for Same {
        type Key = Self;
        fn key(&self) -> &Self {
            self
        }
    }

    impl Hash for Same {
        fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
            state.write_u8(0);
        }
    }

    #[test]
    fn those_of_one_hash_are_told_apart_and_more_than_there_are_places_for_are_found() {
        let hasher = RandomState::default();
        let leaf_of = |count: usize| Leaf::of((0..count as u32).map(|key| (Same(key), key)).collect(), &hasher);
        let hash = hasher.hash_one(Same(0));
        for count in [1, PLACED - 1, PLACED, PLACED + 1, 2 * PLACES] {
            let leaf = leaf_of(count);
            for key in 0..count {
                assert_eq!(leaf.find(hash, &Same(key as u32)), Some(key), "of {count}");
            }
            assert_eq!(leaf.find(hash, &Same(999)), None);
            assert!(leaf.places.contains(&Place::default()), "a search would not end");
        }
        let leaf = leaf_of(PLACED);
        let bits = PLACES as u64 - 1;
        let free = hash & !bits | hash.wrapping_add(PLACED as u64) & bits;
        assert_eq!((tag(free), leaf.find(free, &Same(0))), (tag(hash), None), "a free place ends it");
        assert_eq!(leaf.find(hash ^ PLACES as u64, &Same(0)), None, "its bits say that it is another");
    }

    #[test]
    fn a_table_of_one_hash_is_a_map_too() {
        let mut table = Table::default();
        for key in (0..100).chain(0..100) {
            table.insert(Same(key));
        }
        assert_eq!(table.len(), 100);
        for key in 0..100 {
            assert_eq!(table.get(&Same(key)), Some(&Same(key)));
            table.remove(&Same(key));
            assert_eq!((table.get(&Same(key)), table.len()), (None, 99 - key as usize));
        }
    }

    #[test]
    fn a_search_ends_soon_and_hardly_ever_reads_anothers_entry() {
        let mut table = Table::default();
        (0..16_000u32).for_each(|key| table.insert((key, 0)));
        let (mut steps, mut others) = (0, 0);
        for key in 0..16_000u32 {
            let hash = table.hasher.hash_one(key);
            let (chunk, leaf) = table.place(hash);
            let leaf = &table.chunks[chunk][leaf];
            let number = leaf.find(hash, &key).unwrap() + 1;
            let before = probed(hash).map(|at| leaf.places[at]).take_while(|place| usize::from(place.number) != number);
            let before: Vec<Place> = before.collect();
            steps += before.len();
            others += before.iter().filter(|place| place.tag == tag(hash)).count();
        }
        assert!((1_000..16_000).contains(&steps), "{steps} places too many for 16,000 searches");
        assert!(others < 200, "{others} of others for 16,000");
    }
}
