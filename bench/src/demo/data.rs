//! The demonstration's data: the real townships of the country, and market registrations that are made up.

use crate::error::BenchError;
use crate::lineitem::county_codes;
use crate::seeded::Seeded;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;

/// The table of townships that the repository carries (source and licence: deploy/data/SOURCES.md).
const STREETS: &str = include_str!("../../../deploy/data/streets.csv");

/// 姓. The most common ones, of which made-up names are made.
const SURNAMES: [&str; 16] =
    ["王", "李", "张", "刘", "陈", "杨", "黄", "赵", "吴", "周", "徐", "孙", "马", "朱", "胡", "郭"];

/// 名.
const GIVEN: [&str; 16] =
    ["伟", "芳", "娜", "敏", "静", "丽", "强", "磊", "军", "洋", "勇", "艳", "杰", "涛", "明", "超"];

/// What made-up shops sell.
const TRADES: [&str; 8] = ["早餐店", "便利店", "理发店", "五金店", "服装店", "水果店", "快餐店", "维修部"];

const STATES: [&str; 4] = ["存续", "存续", "存续", "注销"];

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) rows: u64,
    /// Rows of province 44.
    pub(super) province: u64,
    /// Rows of city 4403.
    pub(super) city: u64,
    pub(super) bytes: u64,
}

impl Counts {
    fn count(&mut self, region: &str) {
        self.rows += 1;
        self.province += u64::from(region.starts_with(super::PROVINCE));
        self.city += u64::from(region.starts_with(super::CITY));
    }
}

/// Writes the townships as region, name, county, city, province.
pub(super) fn townships(path: &Path) -> Result<Counts, BenchError> {
    let failed = || format!("writing {}", path.display());
    let mut writer = csv::Writer::from_path(path).map_err(BenchError::data(failed()))?;
    writer.write_record(["region", "name", "county", "city", "province"]).map_err(BenchError::data(failed()))?;
    let mut counts = Counts::default();
    for row in csv::Reader::from_reader(STREETS.as_bytes()).into_records() {
        let row = row.map_err(BenchError::data("reading streets.csv"))?;
        let field = |i: usize| row.get(i).unwrap_or_default();
        writer.write_record([field(0), field(1), field(2), field(4), field(3)]).map_err(BenchError::data(failed()))?;
        counts.count(field(0));
    }
    writer.flush().map_err(BenchError::io("writing", path))?;
    drop(writer);
    counts.bytes = path.metadata().map_err(BenchError::io("reading", path))?.len();
    Ok(counts)
}

/// Writes at least `bytes` of made-up registrations in real counties.
pub(super) fn registrations(path: &Path, bytes: u64, seed: u64) -> Result<Counts, BenchError> {
    let counties = county_codes()?;
    let mut random = Seeded::new(seed, "registrations");
    let mut file = BufWriter::new(File::create(path).map_err(BenchError::io("making", path))?);
    let mut counts = Counts::default();
    let mut line = String::from("region,credit_code,name,operator_name,kind,capital,registered_on,status\n");
    loop {
        file.write_all(line.as_bytes()).map_err(BenchError::io("writing", path))?;
        counts.bytes += line.len() as u64;
        if counts.bytes >= bytes {
            break;
        }
        let region = pick(&mut random, &counties).map_or("", String::as_str);
        let mut one = |list: &[&'static str]| pick(&mut random, list).copied().unwrap_or_default();
        let (surname, given, trade, state) = (one(&SURNAMES), one(&GIVEN), one(&TRADES), one(&STATES));
        let number = counts.rows % 10_000_000;
        // Z is no character of a credit code: none of these can be anybody's.
        let code = format!("92{region}MA{number:07}Z");
        let capital = random.below(50_000_000);
        let (year, month, day) = (1995 + random.below(31), 1 + random.below(12), 1 + random.below(28));
        line.clear();
        line += &format!(
            "{region},{code},合成数据{surname}{given}{trade}{number:07},{surname}{given},个体工商户,{}.{:02},{year}-{month:02}-{day:02},{state}\n",
            capital / 100,
            capital % 100
        );
        counts.count(region);
    }
    file.flush().map_err(BenchError::io("writing", path))?;
    Ok(counts)
}

fn pick<'a, T>(random: &mut Seeded, list: &'a [T]) -> Option<&'a T> {
    list.get(usize::try_from(random.below(list.len() as u64)).unwrap_or(0))
}

/// The entry of the townships: shared with every agency without conditions.
pub(super) const TOWNSHIPS_ENTRY: &str = r#"name = "乡级行政区划代码"
abstract = "全国乡级行政区划代码和名称，2023 年版；来源见 deploy/data/SOURCES.md"
format = "table"
update_frequency = "yearly"
sharing_class = "unconditional"
sharing_methods = ["batch_exchange"]
region_column = "region"
grade = "general-1"

[[items]]
name = "region"
type = "string"
key = true
personal = false

[[items]]
name = "name"
type = "string"
personal = false

[[items]]
name = "county"
type = "string"
personal = false

[[items]]
name = "city"
type = "string"
personal = false

[[items]]
name = "province"
type = "string"
personal = false
"#;

/// The entry of the registrations: shared under conditions.
pub(super) const REGISTRATIONS_ENTRY: &str = r#"name = "个体工商户登记信息（合成数据）"
abstract = "合成的个体工商户登记事项，仅行政区划代码为真"
format = "table"
update_frequency = "daily"
sharing_class = "conditional"
conditions = "限依法履职使用"
purposes = ["低收入家庭核对"]
sharing_methods = ["batch_exchange"]
region_column = "region"
grade = "general-2"

[[items]]
name = "region"
type = "string"
grade = "general-1"
personal = false

[[items]]
name = "credit_code"
type = "string"
key = true
personal = false

[[items]]
name = "name"
type = "string"
personal = false

[[items]]
name = "operator_name"
type = "string"
grade = "general-3"
personal = true

[[items]]
name = "kind"
type = "string"
personal = false

[[items]]
name = "capital"
type = "decimal(15,2)"
personal = false

[[items]]
name = "registered_on"
type = "date"
personal = false

[[items]]
name = "status"
type = "string"
personal = false
"#;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use lingqu_protocol::agency::CreditCode;
    use lingqu_protocol::entry::EntrySpec;

    #[test]
    fn the_entries_are_entries() {
        for entry in [TOWNSHIPS_ENTRY, REGISTRATIONS_ENTRY] {
            assert!(EntrySpec::parse(entry).unwrap().region_item().is_some());
        }
    }

    #[test]
    fn every_township_of_the_table_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let counts = townships(&dir.path().join("t.csv")).unwrap();
        assert_eq!(counts.rows, 41_352);
        assert!(counts.province > counts.city && counts.city > 0);
    }

    #[test]
    fn registrations_are_large_enough_counted_rightly_and_nobodys() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r.csv");
        let counts = registrations(&path, 1 << 20, 7).unwrap();
        let written = std::fs::read(&path).unwrap();
        assert!(counts.bytes >= 1 << 20 && counts.bytes == written.len() as u64);
        let mut seen = Counts { bytes: counts.bytes, ..Counts::default() };
        let codes = county_codes().unwrap();
        for row in csv::Reader::from_reader(&written[..]).into_records() {
            let row = row.unwrap();
            assert!(codes.iter().any(|code| code == &row[0]) && CreditCode::parse(&row[1]).is_err(), "{row:?}");
            seen.count(&row[0]);
        }
        assert_eq!(seen, counts);
    }
}
