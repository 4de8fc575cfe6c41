//! Administrative divisions (行政区划): codes of 2, 4, 6, 9 or 12 digits, with levels and parents from the table of the
//! National Bureau of Statistics (deploy/data), never from trailing zeros.
//!
//! A [`RegionCode`] is always one that the table knows: it can be made in no other way than by looking it up. Villages (12
//! digits) are not listed one by one; such a code is known where its first nine digits are a listed township and the last
//! three are not 000.

use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;

/// The files of the table, one a level, carried in the program so that no machine can have another table by accident.
const FILES: [(RegionLevel, &str); 4] = [
    (RegionLevel::Province, include_str!("../../deploy/data/provinces.csv")),
    (RegionLevel::City, include_str!("../../deploy/data/cities.csv")),
    (RegionLevel::County, include_str!("../../deploy/data/areas.csv")),
    (RegionLevel::Township, include_str!("../../deploy/data/streets.csv")),
];

/// Digits that a code may have, the shortest first.
const LENGTHS: [usize; 5] = [2, 4, 6, 9, 12];

/// What a region is, as the table says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RegionLevel {
    /// 省级.
    Province,
    /// 地市级, and the groups that stand in its place for what a province administers directly.
    City,
    /// 县级.
    County,
    /// 乡级.
    Township,
    /// 村级.
    Village,
}

impl RegionLevel {
    /// Its word in commands and documents.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Province => "province",
            Self::City => "city",
            Self::County => "county",
            Self::Township => "township",
            Self::Village => "village",
        }
    }
}

impl fmt::Display for RegionLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that is no level.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a level of region: expected province, city, county, township or village")]
pub struct BadRegionLevel;

impl FromStr for RegionLevel {
    type Err = BadRegionLevel;
    fn from_str(text: &str) -> Result<Self, BadRegionLevel> {
        [Self::Province, Self::City, Self::County, Self::Township, Self::Village]
            .into_iter()
            .find(|level| level.as_str() == text)
            .ok_or(BadRegionLevel)
    }
}

/// A code that the table knows. Its order is the order of its text, so a region stands right before what is inside it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RegionCode([u8; 12]);

impl RegionCode {
    /// Its digits.
    pub fn as_str(&self) -> &str {
        let len = self.0.iter().position(|b| *b == 0).unwrap_or(self.0.len());
        // Every byte before the first zero byte is a digit.
        self.0.get(..len).and_then(|digits| std::str::from_utf8(digits).ok()).unwrap_or_default()
    }

    fn from_digits(text: &str) -> Option<Self> {
        if !LENGTHS.contains(&text.len()) || !text.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let mut code = [0; 12];
        code.get_mut(..text.len())?.copy_from_slice(text.as_bytes());
        Some(Self(code))
    }
}

impl FromStr for RegionCode {
    type Err = RegionError;
    fn from_str(text: &str) -> Result<Self, RegionError> {
        RegionTable::national().check(text)
    }
}

impl fmt::Display for RegionCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for RegionCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that is no region.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegionError {
    /// Not 2, 4, 6, 9 or 12 digits.
    #[error("{0:?} is not a region code: expected 2, 4, 6, 9 or 12 digits")]
    Form(String),
    /// A code filled up with zeros.
    #[error("{given} is {meant} filled up with zeros: write {meant}")]
    Padded {
        /// What was given.
        given: String,
        /// The code that was meant.
        meant: RegionCode,
    },
    /// Not in the table.
    #[error("{0} is not in the table of administrative divisions (2023 edition; none for 71, 81 and 82)")]
    Unknown(String),
}

/// The table of regions.
#[derive(Debug)]
pub struct RegionTable {
    /// Sorted by code.
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    code: RegionCode,
    parent: Option<RegionCode>,
    level: RegionLevel,
    name: &'static str,
}

impl RegionTable {
    /// The table that the program carries. The first call reads it (some milliseconds).
    pub fn national() -> &'static Self {
        static NATIONAL: LazyLock<RegionTable> = LazyLock::new(|| {
            #[expect(clippy::expect_used, reason = "the files are compiled in, and a test reads them")]
            RegionTable::read(&FILES).expect("the table of regions that this program was built with")
        });
        &NATIONAL
    }

    /// The region that `text` names.
    ///
    /// # Errors
    /// Says whether the form is wrong, the code is filled up with zeros, or the table has no such region.
    pub fn check(&self, text: &str) -> Result<RegionCode, RegionError> {
        let shown = || text.chars().take(40).collect::<String>();
        let code = RegionCode::from_digits(text).ok_or_else(|| RegionError::Form(shown()))?;
        if self.row(code).is_some() || self.township_of(code).is_some() {
            return Ok(code);
        }
        for len in LENGTHS.into_iter().rev().filter(|len| *len < text.len()) {
            let (Some(head), Some(tail)) = (text.get(..len), text.get(len..)) else { continue };
            let meant = RegionCode::from_digits(head).filter(|code| self.row(*code).is_some());
            if let (Some(meant), true) = (meant, tail.bytes().all(|b| b == b'0')) {
                return Err(RegionError::Padded { given: shown(), meant });
            }
        }
        Err(RegionError::Unknown(shown()))
    }

    /// What `code` is.
    pub fn level(&self, code: RegionCode) -> RegionLevel {
        // A code that is not listed is a village: `check` makes no other.
        self.row(code).map_or(RegionLevel::Village, |row| row.level)
    }

    /// The region right above; `None` above a province.
    pub fn parent(&self, code: RegionCode) -> Option<RegionCode> {
        match self.row(code) {
            Some(row) => row.parent,
            None => self.township_of(code),
        }
    }

    /// The name beside `code`; `None` for a village.
    pub fn name(&self, code: RegionCode) -> Option<&'static str> {
        self.row(code).map(|row| row.name)
    }

    /// Whether `code` is a group of the table that has no government of its own: 4190 and its like, the 市辖区 of a
    /// municipality.
    pub fn is_group(&self, code: RegionCode) -> bool {
        self.row(code).is_some_and(|row| {
            row.level == RegionLevel::City
                && (matches!(row.name, "市辖区" | "县") || row.name.ends_with("直辖县级行政区划"))
        })
    }

    /// Whether `code` is `ancestor` or lies below it.
    pub fn is_within(&self, code: RegionCode, ancestor: RegionCode) -> bool {
        // Five levels, so five steps: the loop ends because a parent is always of a higher level.
        std::iter::successors(Some(code), |at| self.parent(*at)).any(|at| at == ancestor)
    }

    fn row(&self, code: RegionCode) -> Option<&Row> {
        self.rows.binary_search_by_key(&code, |row| row.code).ok().and_then(|i| self.rows.get(i))
    }

    /// The township above a village; `None` where `code` is no village.
    fn township_of(&self, code: RegionCode) -> Option<RegionCode> {
        let (head, tail) = code.as_str().split_at_checked(9)?;
        let township = RegionCode::from_digits(head).filter(|head| self.row(*head).is_some());
        if tail.len() == 3 && tail != "000" { township } else { None }
    }

    fn read(files: &[(RegionLevel, &'static str)]) -> Result<Self, String> {
        let mut rows: Vec<Row> = Vec::new();
        for (level, text) in files {
            let mut lines = text.lines();
            let header: Vec<&str> = lines.next().unwrap_or_default().split(',').collect();
            let above = match level {
                RegionLevel::Province => None,
                RegionLevel::City => Some("provinceCode"),
                RegionLevel::County => Some("cityCode"),
                RegionLevel::Township | RegionLevel::Village => Some("areaCode"),
            };
            let column = |name: &str| header.iter().position(|h| *h == name).ok_or(format!("no column {name}"));
            let (at_code, at_name) = (column("code")?, column("name")?);
            let at_parent = above.map(column).transpose()?;
            for line in lines {
                let cells: Vec<&'static str> = line.split(',').map(|cell| cell.trim_matches('"')).collect();
                let cell = |at: usize| cells.get(at).copied().ok_or(format!("short line {line}"));
                let code = |at: usize| RegionCode::from_digits(cell(at)?).ok_or(format!("no code in {line}"));
                let parent = at_parent.map(code).transpose()?;
                rows.push(Row { code: code(at_code)?, parent, level: *level, name: cell(at_name)? });
            }
        }
        rows.sort_unstable_by_key(|row| row.code);
        let table = Self { rows };
        for (row, next) in table.rows.iter().zip(table.rows.iter().skip(1)) {
            if row.code == next.code {
                return Err(format!("{} stands twice", row.code));
            }
        }
        for row in &table.rows {
            // `is_within` ends, and pruning by text is right, only where this holds.
            let sound = row.parent.is_none_or(|parent| {
                row.code.as_str().starts_with(parent.as_str())
                    && table.row(parent).is_some_and(|above| above.level < row.level)
            });
            if !sound {
                return Err(format!("{} has no sound parent", row.code));
            }
        }
        Ok(table)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn code(text: &str) -> RegionCode {
        RegionTable::national().check(text).unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    #[test]
    fn the_table_has_every_row_of_its_source() {
        let table = RegionTable::national();
        let count = |level| table.rows.iter().filter(|row| row.level == level).count();
        let counts = [RegionLevel::Province, RegionLevel::City, RegionLevel::County, RegionLevel::Township].map(count);
        assert_eq!(counts, [31, 342, 2_978, 41_352]);
        assert!(table.rows.iter().all(|row| (row.level == RegionLevel::Province) == row.parent.is_none()));
        assert_eq!(table.name(code("110101")), Some("东城区"));
    }

    #[test]
    fn counties_that_end_in_zeros_are_counties() {
        let table = RegionTable::national();
        for (county, city) in [("441900", "4419"), ("442000", "4420"), ("460400", "4604")] {
            assert_eq!(table.level(code(county)), RegionLevel::County);
            assert_eq!(table.parent(code(county)), Some(code(city)));
            assert!(table.is_within(code(county), code(city)));
            assert!(!table.is_within(code(city), code(county)));
        }
        assert_eq!(table.level(code("350527000")), RegionLevel::Township);
    }

    #[test]
    fn groups_stand_where_a_city_would() {
        let table = RegionTable::national();
        for group in ["4190", "4290", "4690", "6590", "1101", "5002"] {
            assert_eq!(table.level(code(group)), RegionLevel::City);
            assert!(table.is_group(code(group)), "{group}");
        }
        assert!(!table.is_group(code("4419")) && !table.is_group(code("441900")) && !table.is_group(code("44")));
        assert!(table.is_within(code("419001"), code("4190")));
        assert!(table.is_within(code("419001"), code("41")));
    }

    #[test]
    fn padded_codes_are_refused_and_the_meant_one_is_named() {
        for (given, meant) in [
            ("440000", "44"),
            ("4400", "44"),
            ("440300", "4403"),
            ("440000000000", "44"),
            ("440305000000", "440305"),
            ("441900000", "441900"),
            ("441900000000", "441900"),
            ("110101001000", "110101001"),
            ("350527000000", "350527000"),
        ] {
            let expected = RegionError::Padded { given: given.to_owned(), meant: code(meant) };
            assert_eq!(RegionTable::national().check(given), Err(expected));
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for unknown in ["71", "81", "82", "00", "99", "4499", "440399", "440399000", "440399001001"] {
            let got = RegionTable::national().check(unknown);
            assert_eq!(got, Err(RegionError::Unknown(unknown.to_owned())));
        }
        for bad in ["", "4", "440", "44030", "4403051", "4403 ", "４４", "44a3", "-1", "4403050010010"] {
            assert!(matches!(RegionTable::national().check(bad), Err(RegionError::Form(_))), "{bad}");
        }
    }

    #[test]
    fn villages_hang_below_their_township() {
        let table = RegionTable::national();
        let village = code("110101001001");
        assert_eq!(table.level(village), RegionLevel::Village);
        assert_eq!(table.parent(village), Some(code("110101001")));
        for above in ["110101001001", "110101001", "110101", "1101", "11"] {
            assert!(table.is_within(village, code(above)), "{above}");
        }
        assert!(!table.is_within(village, code("12")));
    }

    proptest! {
        #[test]
        fn no_text_panics_and_what_is_read_is_written_back(text in "[0-9]{0,13}|\\PC{0,14}") {
            if let Ok(code) = RegionTable::national().check(&text) {
                prop_assert_eq!(code.to_string(), text);
            }
        }

        #[test]
        fn within_is_what_the_parents_say(at in 0..44_703usize) {
            let table = RegionTable::national();
            let row = &table.rows[at];
            let mut above = Some(row.code);
            while let Some(code) = above {
                prop_assert!(table.is_within(row.code, code));
                above = table.parent(code);
            }
        }
    }
}
