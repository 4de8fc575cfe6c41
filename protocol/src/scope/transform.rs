//! What happens to a column's values before they leave: dropped, masked, or replaced by a pseudonym that is keyed per grant.

use crate::entry::{ItemType, above, is_at_or_below};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// Characters that a mask may keep at each end: an identity number has 18, and a mask that keeps more hides nothing.
pub const MASK_KEPT_CHARS_MAX: u8 = 18;

/// How pseudonyms are made: HMAC-SHA-256, the first 128 bits of it, as 22 characters of base64url without padding.
pub const PSEUDONYM_ALGORITHM: &str = "hmac-sha256-128";

/// What happens to a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transform {
    /// It does not leave.
    Drop,
    /// Of each text, so many characters at each end leave; every other becomes `*`. A text that has no more than both ends
    /// becomes `*` whole. How long a text is stays to be seen.
    Mask {
        /// Characters kept at the beginning.
        prefix: u8,
        /// Characters kept at the end.
        suffix: u8,
    },
    /// Each value becomes a text that is the same for the same value under the same grant, and has nothing in common with
    /// that under another.
    Pseudonym,
}

impl Transform {
    /// Whether it shows no more of any value than `asked` does; `None` is the value in clear. Masks are only comparable
    /// where one keeps nothing: which of two others shows more depends on the length of the text.
    pub fn narrows(got: Option<Self>, asked: Option<Self>) -> bool {
        match (got, asked) {
            (_, None) | (Some(Self::Drop), _) => true,
            (Some(Self::Mask { prefix: 0, suffix: 0 }), Some(Self::Mask { .. })) => true,
            (got, asked) => got == asked,
        }
    }

    /// Whether values of this type can be treated so.
    pub const fn fits(self, item_type: ItemType) -> bool {
        match self {
            Self::Drop => true,
            Self::Mask { .. } => matches!(item_type, ItemType::String),
            Self::Pseudonym => matches!(item_type, ItemType::String | ItemType::Int32 | ItemType::Int64),
        }
    }

    /// The types that it can be used on, in words.
    pub const fn takes(self) -> &'static str {
        match self {
            Self::Drop => "every type",
            Self::Mask { .. } => "strings",
            Self::Pseudonym => "strings and whole numbers",
        }
    }
}

impl fmt::Display for Transform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Drop => f.write_str("drop"),
            Self::Mask { prefix: 0, suffix: 0 } => f.write_str("mask"),
            Self::Mask { prefix, suffix } => write!(f, "mask({prefix},{suffix})"),
            Self::Pseudonym => f.write_str("pseudonym"),
        }
    }
}

/// A text that is no transform. The fault is the writer's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not known: expected drop, mask, mask(PREFIX,SUFFIX) with at most {MASK_KEPT_CHARS_MAX} characters kept at each \
     end, or pseudonym"
)]
pub struct BadTransform(pub String);

impl FromStr for Transform {
    type Err = BadTransform;
    fn from_str(text: &str) -> Result<Self, BadTransform> {
        let kept = |digits: &str| {
            let digits = digits.trim_matches(' ');
            // No sign, no more digits than the bound has.
            let plain = (1..=2).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
            digits.parse::<u8>().ok().filter(|count| plain && *count <= MASK_KEPT_CHARS_MAX)
        };
        let mask = || {
            let ends = text.strip_prefix("mask(")?.strip_suffix(')')?;
            let (prefix, suffix) = ends.split_once(',')?;
            Some(Self::Mask { prefix: kept(prefix)?, suffix: kept(suffix)? })
        };
        match text {
            "drop" => Ok(Self::Drop),
            "mask" => Ok(Self::Mask { prefix: 0, suffix: 0 }),
            "pseudonym" => Ok(Self::Pseudonym),
            _ => mask().ok_or_else(|| BadTransform(text.chars().take(40).collect())),
        }
    }
}

/// Transforms by column. A structure's name stands for all leaves below it; the name nearest to a column counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transforms(BTreeMap<String, Transform>);

impl Transforms {
    /// From names of columns and structures.
    pub const fn new(by_name: BTreeMap<String, Transform>) -> Self {
        Self(by_name)
    }

    /// Whether all is in clear.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// As written, in the order of names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Transform)> {
        self.0.iter().map(|(name, transform)| (name.as_str(), *transform))
    }

    /// What happens to a column; `None` where it leaves in clear.
    pub fn of(&self, column: &str) -> Option<Transform> {
        if self.0.is_empty() {
            return None;
        }
        std::iter::once(column).chain(above(column)).find_map(|name| self.0.get(name)).copied()
    }

    /// These with those of `over` in their place where both name the same, as far as they concern `columns`.
    pub(super) fn overlaid(&self, over: &Self, columns: &[String]) -> Self {
        let both = self.0.iter().chain(&over.0).map(|(name, transform)| (name.clone(), *transform));
        Self(both.filter(|(name, _)| concerns(name, columns)).collect())
    }

    /// The names under which this shows more than `asked`, as far as they concern `columns`. Between two names nothing
    /// changes, so these are all that need a look.
    pub(super) fn wider_than<'a>(&'a self, asked: &'a Self, columns: &'a [String]) -> impl Iterator<Item = &'a str> {
        let names = asked.0.keys().chain(self.0.keys().filter(|name| !asked.0.contains_key(*name)));
        let names = names.filter(|name| concerns(name, columns));
        names.filter(|name| !Transform::narrows(self.of(name), asked.of(name))).map(String::as_str)
    }
}

/// Whether a name is one of the columns, holds one, or lies below one.
pub(super) fn concerns(name: &str, columns: &[String]) -> bool {
    columns.iter().any(|column| is_at_or_below(column, name) || is_at_or_below(name, column))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn transforms(list: &[(&str, &str)]) -> Transforms {
        Transforms(list.iter().map(|(name, text)| ((*name).to_owned(), text.parse().unwrap())).collect())
    }

    #[test]
    fn none_is_none_and_one_is_not() {
        assert!(Transforms::default().is_empty() && !transforms(&[("name", "mask")]).is_empty());
    }

    fn one() -> impl Strategy<Value = Transform> {
        prop_oneof![
            Just(Transform::Drop),
            (0..=MASK_KEPT_CHARS_MAX, 0..=MASK_KEPT_CHARS_MAX)
                .prop_map(|(prefix, suffix)| Transform::Mask { prefix, suffix }),
            Just(Transform::Mask { prefix: 0, suffix: 0 }),
            Just(Transform::Pseudonym),
        ]
    }

    #[test]
    fn each_word_is_read_and_everything_else_is_named() {
        assert_eq!("mask(3, 4)".parse(), Ok(Transform::Mask { prefix: 3, suffix: 4 }));
        assert_eq!("mask(0,0)".parse::<Transform>().unwrap().to_string(), "mask");
        for bad in [
            "",
            "Drop",
            "mask(",
            "mask()",
            "mask(1)",
            "mask(1,2,3)",
            "mask(-1,0)",
            "mask(+1,0)",
            "mask(19,0)",
            "mask(0001,0)",
            "mask(1,2) ",
            "hash",
            "pseudonym()",
            "clear",
        ] {
            assert!(bad.parse::<Transform>().is_err(), "{bad}");
        }
    }

    #[test]
    fn only_what_shows_no_more_narrows() {
        let parse = |text: &str| (text != "clear").then(|| text.parse::<Transform>().unwrap());
        for (got, asked, narrows) in [
            ("clear", "clear", true),
            ("drop", "clear", true),
            ("mask(3,4)", "clear", true),
            ("pseudonym", "clear", true),
            ("clear", "drop", false),
            ("clear", "mask", false),
            ("clear", "pseudonym", false),
            ("drop", "pseudonym", true),
            ("drop", "mask", true),
            ("mask", "mask(3,4)", true),
            ("mask(3,4)", "mask(3,4)", true),
            // A text of five characters shows two with the first and none with the second.
            ("mask(1,1)", "mask(3,4)", false),
            ("mask(3,4)", "mask", false),
            ("mask", "pseudonym", false),
            ("pseudonym", "mask", false),
            ("pseudonym", "drop", false),
        ] {
            assert_eq!(Transform::narrows(parse(got), parse(asked)), narrows, "{got} for {asked}");
        }
    }

    #[test]
    fn the_nearest_name_counts() {
        let all = transforms(&[("address", "mask"), ("address.at.street", "drop")]);
        assert_eq!(all.of("address.city"), Some(Transform::Mask { prefix: 0, suffix: 0 }));
        assert_eq!(all.of("address.at.street"), Some(Transform::Drop));
        assert_eq!(all.of("addresses"), None);
        let columns = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        let more = transforms(&[("address", "drop")]);
        let over =
            more.overlaid(&transforms(&[("address.city", "pseudonym"), ("other", "drop")]), &columns(&["address"]));
        assert_eq!(over, transforms(&[("address", "drop"), ("address.city", "pseudonym")]));
        assert_eq!(over.wider_than(&more, &columns(&["address"])).collect::<Vec<_>>(), ["address.city"]);
        assert_eq!(over.wider_than(&more, &columns(&["address.at"])).count(), 0, "it is not among the columns");
        assert_eq!(more.wider_than(&all, &columns(&["address"])).count(), 0);
        assert_eq!(all.wider_than(&more, &columns(&["address"])).collect::<Vec<_>>(), ["address"]);
    }

    proptest! {
        #[test]
        fn each_has_one_text(transform in one(), text in "\\PC{0,20}|mask\\([0-9, -]{0,6}\\)?") {
            prop_assert_eq!(transform.to_string().parse(), Ok(transform));
            if let Ok(read) = text.parse::<Transform>() {
                prop_assert_eq!(read.to_string().parse(), Ok(read));
            }
        }

        #[test]
        fn narrowing_is_an_order(a in prop::option::of(one()), b in prop::option::of(one()), c in prop::option::of(one())) {
            prop_assert!(Transform::narrows(a, a));
            if Transform::narrows(a, b) && Transform::narrows(b, c) {
                prop_assert!(Transform::narrows(a, c));
            }
            if Transform::narrows(a, b) && Transform::narrows(b, a) {
                prop_assert_eq!(a, b);
            }
        }

        #[test]
        fn a_leaf_shows_more_only_under_a_name_that_is_found(
            got in prop::collection::btree_map(prop::sample::select(vec!["a", "a.b", "a.b.c", "a.d"]), one(), 0..4),
            asked in prop::collection::btree_map(prop::sample::select(vec!["a", "a.b", "a.b.c", "a.d"]), one(), 0..4),
        ) {
            let owned = |map: BTreeMap<&str, Transform>| Transforms(map.into_iter().map(|(k, v)| (k.to_owned(), v)).collect());
            let (got, asked) = (owned(got), owned(asked));
            let columns = ["a".to_owned()];
            let leaves = ["a.b.c", "a.b.x", "a.d", "a.y"];
            let wider = leaves.iter().any(|leaf| !Transform::narrows(got.of(leaf), asked.of(leaf)));
            prop_assert!(!wider || got.wider_than(&asked, &columns).count() > 0);
        }
    }
}
