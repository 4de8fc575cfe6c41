//! The world of backflow to everybody: an entry, a list that names every receiver, and invitations for all of them.

use super::peer::Setting;
use super::subscriber::Kind;
use crate::error::{BenchError, check};
use crate::lineitem::county_codes;
use crate::seeded::Seeded;
use crate::texts::flowing_entry;
use crate::world::{Agency, Founding, Programs, World, credit_code, save, text_with};
use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use lingqu_protocol::region::RegionTable;
use parquet::arrow::ArrowWriter;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(super) const CODE: &str = "300002/000012";

/// An entry of the same rows that flows back to nobody: what a push costs by itself.
pub(super) const QUIET_CODE: &str = "300002/000013";

/// The table of townships that the repository carries.
const STREETS: &str = include_str!("../../../deploy/data/streets.csv");

/// Rows that are written at a time.
const BATCH_ROWS: u64 = 65_536;

/// Invitations that are asked for at a time: the gateway makes them durable together.
const AT_ONCE: usize = 16;

/// One receiver.
#[derive(Clone, Debug)]
pub(super) struct Subscribing {
    pub(super) code: String,
    pub(super) region: String,
    pub(super) kind: Kind,
    pub(super) invitation: String,
}

/// A version that was made.
pub(super) struct Version {
    pub(super) file: PathBuf,
    /// Rows of each region, with what lies within it.
    pub(super) rows_of: HashMap<String, u64>,
}

/// The world.
pub(super) struct Fan {
    pub(super) world: World,
    pub(super) subscribers: Vec<Subscribing>,
    pub(super) provider: Agency,
    authority: Agency,
}

impl Fan {
    /// With so many receivers, one of ten dead and one of ten slow.
    pub(super) fn open(dir: &Path, subscribers: usize) -> Result<Self, BenchError> {
        let kind = |at: usize| match at % super::SHARE {
            3 => Kind::Dead,
            7 => Kind::Slow,
            _ => Kind::Live,
        };
        let regions = regions(subscribers)?;
        let of = regions.iter().enumerate().map(|(at, region)| (region.as_str(), kind(at)));
        Self::with(dir, &of.collect::<Vec<_>>(), &entry_toml())
    }

    /// With these receivers, and this entry.
    pub(super) fn with(dir: &Path, regions: &[(&str, Kind)], entry: &str) -> Result<Self, BenchError> {
        let mut world = World::create(&dir.join("world"), Programs::find()?)?;
        world.serve()?;
        let found = |label, name, authority, number| {
            world.found(Founding { label, name, region: "44:province", authority, number })
        };
        let authority = found("authority", "测试主管部门", true, 1)?;
        let provider = found("provider", "测试提供部门", false, 2)?;
        world.publish(&provider, &authority, &save(dir, "entry.toml", entry)?, CODE)?;

        let mut lines = "code,name,region,level,duties,parent,authority\n".to_owned();
        let mut codes = Vec::new();
        let table = RegionTable::national();
        for (number, (region, _)) in (10u32..).zip(regions) {
            let place: String = region.chars().take(6).collect();
            let code = credit_code(&place, number)?;
            let level = table.level(table.check(region).map_err(BenchError::data("a region"))?);
            // Writing to a string cannot fail.
            let _ = writeln!(lines, "{code},{region}测试接收部门,{region},{level},,,false");
            codes.push(code);
        }
        let file = save(dir, "agencies.csv", &lines)?;
        world.operator(["agency", "import"]).arg(file).arg("--root").arg(world.root()).run(0)?;
        let named: Vec<&str> = codes.iter().map(String::as_str).collect();
        world.list_receivers(dir, &authority, CODE, &named)?;
        let invitations = invite(&world.gateway_dir().join("control.sock"), &codes)?;
        let subscribers = regions.iter().zip(codes).zip(invitations).map(|(((region, kind), code), invitation)| {
            Subscribing { code, region: (*region).to_owned(), kind: *kind, invitation }
        });
        let subscribers = subscribers.collect();
        Ok(Self { world, subscribers, provider, authority })
    }

    /// What a process of subscribers is told: the gateway itself, and to take what is compressed.
    pub(super) fn setting(&self, number: u8, kind: Kind) -> Result<Setting, BenchError> {
        let gateway = self.world.address.parse().map_err(BenchError::data("the gateway's address"))?;
        Ok(Setting { number, gateway, entry: CODE.to_owned(), kind, lz4: true })
    }

    /// Makes a version of so many rows: every region has some, and which has how many is decided by the seed.
    pub(super) fn version(&self, dir: &Path, rows: u64, seed: u64) -> Result<Version, BenchError> {
        let regions: Vec<&str> = self.subscribers.iter().map(|s| s.region.as_str()).collect();
        let count = regions.len().max(1) as u64;
        let mut random = Seeded::new(seed, "backflow rows");
        let mut per: Vec<u64> = vec![0; regions.len()];
        let file = dir.join(format!("rows-{seed}.parquet"));
        let out = File::create(&file).map_err(BenchError::io("making", &file))?;
        let failed = || "writing rows".to_owned();
        let mut writer: Option<ArrowWriter<File>> = None;
        let mut out = Some(out);
        let mut row = 0;
        while row < rows {
            let until = rows.min(row + BATCH_ROWS);
            // The first of each region in turn, the others anywhere.
            let places: Vec<usize> =
                (row..until).map(|n| if n < count { n as usize } else { random.below(count) as usize }).collect();
            places.iter().for_each(|place| {
                if let Some(rows) = per.get_mut(*place) {
                    *rows += 1;
                }
            });
            let region = places.iter().map(|place| regions.get(*place).copied().unwrap_or_default());
            let columns: [(&str, ArrayRef); 4] = [
                ("region", Arc::new(StringArray::from_iter_values(region))),
                ("id", Arc::new(Int64Array::from_iter_values((row..until).map(|n| n as i64)))),
                ("name", Arc::new(StringArray::from_iter_values((row..until).map(|n| format!("登记主体{n:012}"))))),
                (
                    "amount",
                    Arc::new(Int64Array::from_iter_values((row..until).map(|_| (random.next_u64() >> 20) as i64))),
                ),
            ];
            let batch = RecordBatch::try_from_iter(columns).map_err(BenchError::data(failed()))?;
            if let Some(out) = out.take() {
                writer = Some(ArrowWriter::try_new(out, batch.schema(), None).map_err(BenchError::data(failed()))?);
            }
            if let Some(writer) = &mut writer {
                writer.write(&batch).map_err(BenchError::data(failed()))?;
            }
            row = until;
        }
        if let Some(writer) = writer {
            writer.close().map_err(BenchError::data(failed()))?;
        }
        let known: HashMap<&str, u64> = regions.iter().copied().zip(per).collect();
        let within = |own: &str| known.iter().filter(|(of, _)| of.starts_with(own)).map(|(_, rows)| rows).sum();
        let rows_of = regions.iter().map(|own| ((*own).to_owned(), within(own))).collect();
        Ok(Version { file, rows_of })
    }

    /// Publishes the entry that flows back to nobody.
    pub(super) fn publish_quiet(&self, dir: &Path) -> Result<(), BenchError> {
        let entry = save(dir, "quiet.toml", &entry_of(QUIET_CODE))?;
        self.world.publish(&self.provider, &self.authority, &entry, QUIET_CODE).map(drop)
    }

    /// The provider pushes a file as a full version of what flows back.
    pub(super) fn push(&self, file: &Path) -> Result<(), BenchError> {
        self.push_to(CODE, file)
    }

    /// The provider pushes a file as a full version of an entry.
    pub(super) fn push_to(&self, code: &str, file: &Path) -> Result<(), BenchError> {
        self.world.agent(&self.provider, ["push", "batch", code, "--mode", "full"]).arg(file).run(0).map(drop)
    }

    /// The agencies whose subscriptions lack a version, as the operator sees them.
    pub(super) fn behind(&self) -> Result<Vec<String>, BenchError> {
        let shown = self.world.operator(["subscriptions", "--behind"]).run(0)?.json()?;
        let code = |row: &Value| row["agent"].as_str().and_then(|agent| agent.split('/').next()).map(str::to_owned);
        Ok(shown.as_array().into_iter().flatten().filter_map(code).collect())
    }
}

/// Counties first, then townships, one after the other.
pub(super) fn regions(count: usize) -> Result<Vec<String>, BenchError> {
    let mut codes = county_codes()?;
    let mut streets = csv::Reader::from_reader(STREETS.as_bytes());
    for row in streets.records() {
        if codes.len() >= count {
            break;
        }
        codes.push(row.map_err(BenchError::data("reading streets.csv"))?.get(0).unwrap_or_default().to_owned());
    }
    codes.truncate(count);
    check(codes.len() == count, || format!("there are {} regions", codes.len()))?;
    Ok(codes)
}

/// Asks for invitations as `lingqu-gateway invite` does, several at a time.
fn invite(socket: &Path, codes: &[String]) -> Result<Vec<String>, BenchError> {
    let each = codes.len().div_ceil(AT_ONCE).max(1);
    std::thread::scope(|scope| {
        let ask = |code: &String| {
            let line = json!({ "do": "invite", "agency": code, "agent": "main", "ttl_ms": 86_400_000 }).to_string();
            let failed = BenchError::system;
            let mut stream = UnixStream::connect(socket).map_err(failed("asking for an invitation"))?;
            stream.write_all((line + "\n").as_bytes()).map_err(failed("asking for an invitation"))?;
            stream.shutdown(Shutdown::Write).map_err(failed("asking for an invitation"))?;
            let mut text = String::new();
            stream.read_to_string(&mut text).map_err(failed("reading an invitation"))?;
            let answer: Value = serde_json::from_str(&text).map_err(BenchError::data("an invitation"))?;
            let invitation = text_with(&answer, "lingqu-invit").map(str::to_owned);
            invitation.ok_or_else(|| BenchError::Wrong(format!("no invitation in {answer}")))
        };
        let lanes: Vec<_> = codes
            .chunks(each)
            .map(|chunk| scope.spawn(move || chunk.iter().map(ask).collect::<Result<Vec<_>, _>>()))
            .collect();
        let mut all = Vec::new();
        for lane in lanes {
            all.extend(lane.join().map_err(|_| BenchError::Wrong("a lane ended".to_owned()))??);
        }
        Ok(all)
    })
}

/// The entry of the rows that are made here.
pub(super) fn entry_toml() -> String {
    entry_of(CODE)
}

fn entry_of(code: &str) -> String {
    let items = [("region", "string"), ("id", "int64"), ("name", "string"), ("amount", "int64")];
    flowing_entry(code, &items.map(|(name, of)| (name, of, false)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn there_are_three_thousand_regions_each_once() {
        let mut codes = regions(3_000).unwrap();
        assert_eq!(codes.len(), 3_000);
        assert!(codes.iter().any(|code| code.len() == 9) && codes.iter().any(|code| code.len() == 6));
        codes.sort();
        codes.dedup();
        assert_eq!(codes.len(), 3_000);
    }
}
