//! Items with a path for a name: `address.city` is the leaf `city` of the structure `address`. Tables stay flat; a path says
//! where a value lies in nested input, and a scope may name all leaves below a part of it.

use unicode_normalization::UnicodeNormalization;

/// Parts of an item's name: deeper than any structure an agency was seen to share, and a bound for what walks it.
pub const NAME_PARTS_MAX: usize = 8;

/// Whether `name` is `of` itself or lies below it: `address.city` below `address`, `addresses` not.
pub fn is_at_or_below(name: &str, of: &str) -> bool {
    name.strip_prefix(of).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// The names above a name, the nearest first: `a.b` and `a` above `a.b.c`.
pub fn above(name: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(name.rsplit_once('.').map(|(head, _)| head), |name| {
        name.rsplit_once('.').map(|(head, _)| head)
    })
}

/// What is wrong with the names of items as paths, where something is: the place of the item and the problem.
pub(super) fn mistake<'a>(names: impl Iterator<Item = &'a str> + Clone) -> Option<(usize, String)> {
    let folded = |name: &str| name.to_lowercase().nfc().collect::<String>();
    let mut structures = std::collections::HashMap::new();
    for (place, name) in names.clone().enumerate() {
        if name.split('.').any(|part| part.trim() != part || part.is_empty()) {
            return Some((
                place,
                format!("{name:?} has a part that is empty or begins or ends with a blank: write a.b"),
            ));
        }
        if name.split('.').count() > NAME_PARTS_MAX {
            return Some((place, format!("{name:?} has more than {NAME_PARTS_MAX} parts: use a flatter one")));
        }
        for structure in above(name) {
            let other = structures.entry(folded(structure)).or_insert(structure);
            if *other != structure {
                return Some((place, format!("{structure:?} and {other:?} differ in case alone: write one of them")));
            }
        }
    }
    let both = names.enumerate().find(|(_, name)| structures.contains_key(&folded(name)));
    both.map(|(place, name)| (place, format!("{name:?} cannot be an item and hold items: rename one")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_below_its_parts_and_no_others() {
        assert!(is_at_or_below("a.b.c", "a") && is_at_or_below("a.b.c", "a.b") && is_at_or_below("a", "a"));
        assert!(!is_at_or_below("ab.c", "a") && !is_at_or_below("a", "a.b") && !is_at_or_below("a.bc", "a.b"));
        assert_eq!(above("a.b.c").collect::<Vec<_>>(), ["a.b", "a"]);
        assert_eq!(above("a").count(), 0);
    }

    #[test]
    fn names_that_cannot_be_paths_are_found() {
        let of = |names: &[&'static str]| mistake(names.iter().copied()).map(|(place, _)| place);
        assert_eq!(of(&["a.b", "a.c.d", "b"]), None);
        assert_eq!(of(&["a", "b..c"]), Some(1));
        assert_eq!(of(&[".a"]), Some(0));
        assert_eq!(of(&["a. b"]), Some(0));
        assert_eq!(of(&["a.b", "A"]), Some(1));
        assert_eq!(of(&["a", "b", "a.b.c"]), Some(0));
        assert_eq!(of(&["a.b", "A.c"]), Some(1));
        assert_eq!(of(&["1.2.3.4.5.6.7.8"]), None);
        assert_eq!(of(&["1.2.3.4.5.6.7.8.9"]), Some(0));
    }
}
