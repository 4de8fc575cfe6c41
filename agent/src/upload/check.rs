//! A look at all files without sending: what is wrong with their rows, what the entry's quality rules find in them as the
//! gateway would, and rows of regions that are not the sender's own.

use super::read::{How, Reading, Summary, machine};
use crate::batch;
use crate::batch::reject::Tally;
use crate::batch::sift::{Sieve, Sifted};
use crate::error::{AgentError, Text, Told};
use crate::outbox::SourceFile;
use crate::transfer::{Env, blocking};
use arrow::array::{ArrayRef, AsArray};
use lingqu_protocol::entry::{Check, EntrySpec, OnFailure, QualityRule};
use lingqu_protocol::quality::{HASHES_HELD, RowRules, SET_ROWS_MAX, key_hash};
use lingqu_protocol::region::{RegionCode, RegionTable};
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

/// Files that a look names as wrong in themselves: who has more has one mistake in all of them.
const FAILED_MAX: usize = 100;

/// Rows of one rule, and regions, that a look names.
pub const NAMED_MAX: usize = 100;

/// Regions that are told apart; the country has some 3,000 counties and 41,000 townships.
const REGIONS_MAX: usize = 65_536;

/// Bits of a row's place that are its line; the others are its file's number.
const LINE_BITS: u32 = 40;

/// What the rows are for, as far as it can be known without sending them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Aim {
    /// Whether rows replace others by key: then only the version that they make can be judged as a whole.
    pub is_changes: bool,
    /// The sender's own region.
    pub own: Option<RegionCode>,
}

/// What a look at all files came to.
#[derive(Debug)]
pub struct Checked {
    /// The rows that fit; none where a file could not be read to its end.
    pub summary: Option<Summary>,
    /// What was counted, and the first of the dirty cells.
    pub tally: Tally,
    /// Files that cannot be read, or have other columns, each with its reason.
    pub failed: Vec<AgentError>,
    /// What the entry's quality rules find in the rows that fit, in the entry's order; none where a file could not be read.
    pub rules: Vec<RuleLook>,
    /// Rows of other regions than the sender's own, where that is known and the entry has regions.
    pub regions: Option<RegionLook>,
}

impl Checked {
    /// Why the gateway would refuse the rows that fit; `None` where it would not, as far as can be known here.
    pub fn refusal(&self) -> Option<AgentError> {
        self.rules.iter().find_map(|rule| match &rule.judged {
            Judged::Here { checked, failed, .. } if *failed > 0 && rule.on_failure == OnFailure::Reject => {
                let (name, word) = (&rule.name, rule.check);
                let told = Told::new(
                    "quality",
                    format!(
                        "quality rule {name:?} ({word}) finds {failed} of {checked} rows: the gateway would refuse all"
                    ),
                    format!("质量规则 {name:?}（{word}）在 {checked} 行中发现 {failed} 行：网关将拒绝整个版本"),
                );
                Some(AgentError::Data(told.next("correct them, or leave them out", "请更正，或剔除这些行")))
            }
            Judged::TooMany { rows } => {
                let told = Told::new(
                    "quality",
                    format!("a unique rule looks at {SET_ROWS_MAX} rows at most, and there are {rows}"),
                    format!("唯一性规则最多检查 {SET_ROWS_MAX} 行，现有 {rows} 行"),
                );
                Some(AgentError::Data(told.next("send fewer rows in one version", "请减少单个版本的行数")))
            }
            _ => None,
        })
    }
}

/// What is known of a quality rule without the gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleLook {
    /// Its name.
    pub name: String,
    /// What it demands: `required`, `range`, `pattern`, `unique`, `reference`.
    pub check: &'static str,
    /// What becomes of rows that it finds.
    pub on_failure: OnFailure,
    /// What was found.
    pub judged: Judged,
}

/// Where a rule is judged, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judged {
    /// In the files, as the gateway would where these rows are all of a version.
    Here {
        /// Rows that it looked at.
        checked: u64,
        /// Rows that it found.
        failed: u64,
        /// The first rows that have the values of one before, at most [`NAMED_MAX`].
        twice: Vec<Twice>,
    },
    /// More rows than the gateway looks at.
    TooMany {
        /// So many.
        rows: u64,
    },
    /// Only the gateway can; why.
    AtGateway(Text),
}

/// A row that has the values of one before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Twice {
    /// Where it stands.
    pub at: Place,
    /// Where the first one with these values stands.
    pub first: Place,
}

/// Where a row stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its file.
    pub file: PathBuf,
    /// Line of a text file, row of a sheet, or count of rows, all from 1.
    pub line: u64,
}

/// Rows of regions that are not the sender's own. Nothing refuses them: one may register people of another region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionLook {
    /// The item that says a row's region.
    pub item: String,
    /// The sender's own region.
    pub own: RegionCode,
    /// Rows of other regions.
    pub rows: u64,
    /// Other regions, each with its rows and the first of them.
    pub outside: BTreeMap<String, (u64, Place)>,
}

/// Looks at all files as rows of `spec` and names everything that is wrong with them. Nothing is sent.
///
/// # Errors
/// What the disk says; what is wrong with the files is no error.
pub async fn check(
    env: &Env,
    spec: EntrySpec,
    files: Vec<SourceFile>,
    how: How,
    aim: Aim,
) -> Result<Checked, AgentError> {
    let env = env.clone();
    blocking(move || {
        let mut tally = Tally::new(&*env.disk, &how.rejects, true)?;
        let mut reading = Reading::new(&spec, None)?;
        let mut look = Look::new(&spec, aim)?;
        let mut failed = Vec::new();
        for file in &files {
            match reading.file(&env, file, &how.options, &mut tally, &mut |sifted| look.take(file, sifted)) {
                Ok(_) => {}
                // A file that is wrong in itself does not end the look at the others.
                Err(error @ (AgentError::Data(_) | AgentError::Usage(_))) => {
                    if failed.len() < FAILED_MAX {
                        failed.push(error);
                    }
                }
                Err(error) => return Err(error),
            }
        }
        tally.finish()?;
        let summary = failed.is_empty().then(|| reading.finish(&tally));
        let (rules, regions) = match &summary {
            Some(summary) => (look.rules(&env, &files, &how, summary.rows)?, look.regions),
            None => (Vec::new(), look.regions),
        };
        Ok(Checked { summary, tally, failed, rules, regions })
    })
    .await
}

/// What is gathered in the first pass.
struct Look<'a> {
    spec: &'a EntrySpec,
    aim: Aim,
    rows: RowRules,
    regions: Option<RegionLook>,
    /// Regions that were seen, and whether they are the sender's own.
    known: HashMap<String, bool>,
}

impl<'a> Look<'a> {
    fn new(spec: &'a EntrySpec, aim: Aim) -> Result<Self, AgentError> {
        let rows = RowRules::new(spec).map_err(|e| machine(&e))?;
        let item = spec.region_item().map(|item| item.name.clone());
        let regions = item.zip(aim.own).map(|(item, own)| RegionLook { item, own, rows: 0, outside: BTreeMap::new() });
        Ok(Self { spec, aim, rows, regions, known: HashMap::new() })
    }

    fn take(&mut self, file: &SourceFile, sifted: &Sifted) -> Result<(), AgentError> {
        // Of rows that stay behind the gateway sees nothing.
        self.rows.run_on(&sifted.batch, |_, _| {}).map_err(|e| machine(&e))?;
        let Some(found) = &mut self.regions else { return Ok(()) };
        let column = self.spec.region_column.and_then(|place| sifted.batch.columns().get(place));
        let Some(codes) = column.and_then(|column| column.as_string_opt::<i32>()) else { return Ok(()) };
        let table = RegionTable::national();
        let mut last: Option<(&str, bool)> = None;
        for (row, code) in codes.iter().enumerate() {
            let Some(code) = code else { continue };
            let is_own = match last.filter(|(same, _)| *same == code) {
                Some((_, is_own)) => is_own,
                None => match self.known.get(code) {
                    Some(is_own) => *is_own,
                    None => {
                        let is_own = table.check(code).is_ok_and(|code| table.is_within(code, found.own));
                        if self.known.len() < REGIONS_MAX {
                            self.known.insert(code.to_owned(), is_own);
                        }
                        is_own
                    }
                },
            };
            last = Some((code, is_own));
            if is_own {
                continue;
            }
            found.rows += 1;
            let is_full = found.outside.len() >= REGIONS_MAX;
            match found.outside.get_mut(code) {
                Some((rows, _)) => *rows += 1,
                None if !is_full => {
                    let place = Place { file: file.path.clone(), line: sifted.line(row) };
                    found.outside.insert(code.to_owned(), (1, place));
                }
                None => {}
            }
        }
        Ok(())
    }

    /// What each rule comes to; those over all rows read the files again.
    fn rules(&self, env: &Env, files: &[SourceFile], how: &How, rows: u64) -> Result<Vec<RuleLook>, AgentError> {
        let judge = |(place, rule): (usize, &QualityRule)| {
            let judged = match (&rule.check, self.rows.counts(place)) {
                (_, Some((checked, failed))) => Judged::Here { checked, failed, twice: Vec::new() },
                (Check::Unique, None) if self.aim.is_changes => Judged::AtGateway(Text::new(
                    "changes are judged with the rows that they change",
                    "增量变更与已有数据合并后由网关检查",
                )),
                (Check::Unique, None) if rows > SET_ROWS_MAX => Judged::TooMany { rows },
                (Check::Unique, None) => self.unique(env, files, how, rule, rows)?,
                (_, None) => Judged::AtGateway(Text::new(
                    "only the gateway has the other entry's rows",
                    "仅网关持有被引用目录条目的数据",
                )),
            };
            let (name, check) = (rule.name.clone(), rule.check.word());
            Ok(RuleLook { name, check, on_failure: rule.on_failure, judged })
        };
        self.spec.quality.iter().enumerate().map(judge).collect()
    }

    /// Rows that have the values of one before, as the gateway finds them: a part of all hashes at a time, and a pass over
    /// the files for each part.
    fn unique(
        &self,
        env: &Env,
        files: &[SourceFile],
        how: &How,
        rule: &QualityRule,
        rows: u64,
    ) -> Result<Judged, AgentError> {
        let parts = u128::from(rows.div_ceil(HASHES_HELD).max(1));
        let (mut checked, mut failed) = (0, 0);
        let mut found: Vec<(u64, u64)> = Vec::new();
        for part in 0..parts {
            let mut held = self.hashes(env, files, how, rule, (part, parts))?;
            checked += held.len() as u64;
            held.sort_unstable();
            for same in held.chunk_by(|a, b| (a.0, a.1) == (b.0, b.1)) {
                let Some(((_, _, first), others)) = same.split_first() else { continue };
                failed += others.len() as u64;
                found.extend(others.iter().map(|(_, _, place)| (*place, *first)));
            }
            found.sort_unstable();
            found.truncate(NAMED_MAX);
        }
        let place = |packed: u64| Place {
            file: files.get((packed >> LINE_BITS) as usize).map(|file| file.path.clone()).unwrap_or_default(),
            line: packed & ((1 << LINE_BITS) - 1),
        };
        let twice = found.into_iter().map(|(at, first)| Twice { at: place(at), first: place(first) }).collect();
        Ok(Judged::Here { checked, failed, twice })
    }

    /// The hashes of one part in two halves, each with the place of its row.
    fn hashes(
        &self,
        env: &Env,
        files: &[SourceFile],
        how: &How,
        rule: &QualityRule,
        (part, parts): (u128, u128),
    ) -> Result<Vec<(u64, u64, u64)>, AgentError> {
        let mut sieve = Sieve::new(self.spec)?;
        let (mut held, mut scratch) = (Vec::new(), Vec::new());
        for (number, file) in (0u64..).zip(files) {
            batch::read(&*env.disk, &file.path, self.spec, &how.options, &mut |piece| {
                let sifted = sieve.sift(piece)?;
                let columns: Vec<&ArrayRef> =
                    rule.columns.iter().filter_map(|place| sifted.batch.columns().get(*place)).collect();
                for row in 0..sifted.batch.num_rows() {
                    if let Some(hash) = key_hash(&columns, row, &mut scratch).filter(|hash| hash % parts == part) {
                        held.push(((hash >> 64) as u64, hash as u64, number << LINE_BITS | sifted.line(row)));
                    }
                }
                Ok(true)
            })?;
        }
        Ok(held)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::scripted::env;
    use crate::upload::collect::collect_rows;

    fn spec(more: &str) -> EntrySpec {
        EntrySpec::parse(&format!(
            "name = \"t\"\nabstract = \"a\"\nformat = \"table\"\nupdate_frequency = \"daily\"\n\
             sharing_class = \"unconditional\"\nsharing_methods = [\"batch_exchange\"]\ngrade = \"general-1\"\n{more}\n\
             [[items]]\nname = \"id\"\ntype = \"string\"\npersonal = false\n\
             [[items]]\nname = \"n\"\ntype = \"int64\"\npersonal = false\n"
        ))
        .unwrap()
    }

    const UNIQUE: &str = "[[quality]]\nrule = \"unique\"\ncolumns = [\"id\", \"n\"]\non_failure = \"reject\"";

    /// Files in which every thousandth row of the second is one of the first.
    fn files(dir: &std::path::Path) -> Vec<SourceFile> {
        let rows = |from: u64| (from..from + 5_000).map(|n| format!("r{},{n}\n", n % 7)).collect::<String>();
        let again: String = (0..5).map(|n| format!("r{},{}\n", n * 1_000 % 7, n * 1_000)).collect();
        std::fs::write(dir.join("a.csv"), format!("id,n\n{}", rows(0))).unwrap();
        // A row without a value is looked at by nobody, and one that cannot be read does not go.
        std::fs::write(dir.join("b.csv"), format!("id,n\n,1\n,1\nr1,x\n{}{again}", rows(10_000))).unwrap();
        collect_rows(&[dir.join("a.csv"), dir.join("b.csv")]).unwrap()
    }

    #[test]
    fn rows_that_are_there_twice_are_found_whatever_the_number_of_passes() {
        let dir = tempfile::tempdir().unwrap();
        let (files, spec) = (files(dir.path()), spec(UNIQUE));
        let look = Look::new(&spec, Aim::default()).unwrap();
        for passes in [1, 2, 5] {
            let rows = passes * HASHES_HELD;
            let judged = look.unique(&env(dir.path()), &files, &How::default(), &spec.quality[0], rows).unwrap();
            let Judged::Here { checked, failed, twice } = judged else { panic!("{judged:?}") };
            assert_eq!((checked, failed), (10_005, 5), "what has no value is not looked at");
            let at = |place: &Place| (place.file.file_name().unwrap().to_str().unwrap().to_owned(), place.line);
            let found: Vec<_> = twice.iter().map(|row| (at(&row.at), at(&row.first))).collect();
            let (a, b) = (|line| ("a.csv".to_owned(), line), |line| ("b.csv".to_owned(), line));
            let expected: Vec<_> = (0..5).map(|n| (b(5_005 + n), a(2 + n * 1_000))).collect();
            assert_eq!(found, expected);
        }
    }

    #[tokio::test]
    async fn what_the_gateway_would_refuse_is_said_and_what_it_alone_can_judge_too() {
        let dir = tempfile::tempdir().unwrap();
        let rules = format!(
            "{UNIQUE}\n[[quality]]\nrule = \"reference\"\ncolumn = \"id\"\nentry = \"307010/000001\"\nitem = \"id\"\n\
             on_failure = \"count\"\n[[quality]]\nrule = \"range\"\ncolumn = \"n\"\nmax = 3\non_failure = \"count\""
        );
        std::fs::write(dir.path().join("c.csv"), "id,n\nx,1\ny,9\nx,1\n").unwrap();
        let files = collect_rows(&[dir.path().join("c.csv")]).unwrap();
        let env = env(dir.path());
        let run = |aim| check(&env, spec(&rules), files.clone(), How::default(), aim);
        let checked = run(Aim::default()).await.unwrap();
        assert!(checked.refusal().unwrap().to_string().contains("1 of 3 rows"));
        let counts = |looked: &RuleLook| match &looked.judged {
            Judged::Here { checked, failed, .. } => Some((*checked, *failed)),
            _ => None,
        };
        assert_eq!(checked.rules.iter().map(counts).collect::<Vec<_>>(), [Some((3, 1)), None, Some((3, 1))]);
        let changes = run(Aim { is_changes: true, own: None }).await.unwrap();
        assert!(changes.refusal().is_none() && counts(&changes.rules[0]).is_none());
    }

    #[tokio::test]
    async fn rows_of_other_regions_are_told_and_refuse_nothing() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("r.csv"), "id,n\n4403,1\n110101,2\n440303,3\n110101,4\n,5\n").unwrap();
        let files = collect_rows(&[dir.path().join("r.csv")]).unwrap();
        let mut text = spec("region_column = \"id\"");
        text.items[0].nullable = true;
        let aim = Aim { is_changes: false, own: Some("44".parse().unwrap()) };
        let checked = check(&env(dir.path()), text, files, How::default(), aim).await.unwrap();
        let look = checked.regions.unwrap();
        assert_eq!((look.rows, look.outside.len()), (2, 1));
        let (rows, first) = &look.outside["110101"];
        assert_eq!((*rows, first.line), (2, 3));
    }
}
