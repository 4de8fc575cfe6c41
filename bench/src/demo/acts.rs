//! The acts of the demonstration, in their order.

use super::account::Account;
use super::{CITY, Grants, PROVINCE, SEED, Shared, Stage, data};
use crate::error::{BenchError, check};
use crate::kill::folder_bytes;
use crate::program::{Line, Outcome};
use crate::scenario::only_file;
use crate::seeded::{Seeded, b3sum, transfer_id, write_file};
use crate::texts::{Asked, file_entry};
use crate::world::{Agency, number_of, text_with, value_of};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

const TOWNSHIPS: &str = "300010/000001";
const REGISTRATIONS: &str = "300010/000002";
const FILES: &str = "300010/000003";

/// What the grants of registrations give: no operator's name.
const COLUMNS: [&str; 5] = ["region", "credit_code", "name", "registered_on", "status"];

/// All columns of the registrations.
const ALL_COLUMNS: [&str; 8] =
    ["region", "credit_code", "name", "operator_name", "kind", "capital", "registered_on", "status"];

const TOWNSHIP_COLUMNS: [&str; 5] = ["region", "name", "county", "city", "province"];

/// What ends a whole Arrow IPC stream.
const ARROW_END: [u8; 8] = [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];

/// How long the reader of the pull holds it up before the grant is suspended: the gateway has filled every buffer by then.
const HOLD: Duration = Duration::from_millis(1500);

/// A push that has not sent half of the file by now never will.
const HALF_WAY: Duration = Duration::from_secs(120);

/// Exit code: denied or not found.
const DENIED: i32 = 3;

/// Exit code: suspended or revoked.
const SUSPENDED: i32 = 4;

impl Stage {
    fn save(&self, name: &str, text: &str) -> Result<PathBuf, BenchError> {
        let path = self.data(name);
        fs::create_dir_all(self.data("")).map_err(BenchError::io("making", &path))?;
        fs::write(&path, text).map_err(BenchError::io("writing", &path))?;
        Ok(path)
    }

    pub(super) fn publish(&self, account: &mut Account) -> Result<Shared, BenchError> {
        let entries = [
            (TOWNSHIPS, "townships.toml", data::TOWNSHIPS_ENTRY.to_owned()),
            (REGISTRATIONS, "registrations.toml", data::REGISTRATIONS_ENTRY.to_owned()),
            (FILES, "files.toml", file_entry("登记档案（合成数据）")),
        ];
        for (code, name, text) in entries {
            self.world.publish(&self.provider, &self.authority, &self.save(name, &text)?, code)?;
        }
        account.step(
            "publish",
            "Three entries are published: townships (unconditional), market registrations (conditional) and files. The agency head signed, the authority reviewed.".to_owned(),
            "三个目录条目已发布：乡级行政区划（无条件共享）、市场主体登记（有条件共享）和文件。部门负责人签署，主管部门审核。".to_owned(),
            vec![
                "lingqu catalogue submit registrations.toml --key agency-head".to_owned(),
                "lingqu catalogue review entry-… --approve --key office-head".to_owned(),
            ],
            json!({ "entries": [TOWNSHIPS, REGISTRATIONS, FILES] }),
        );
        Ok(Shared { townships: TOWNSHIPS, registrations: REGISTRATIONS, files: FILES })
    }

    pub(super) fn push_rows(&mut self, account: &mut Account) -> Result<(), BenchError> {
        let (townships, registrations) = (self.data("townships.csv"), self.data("registrations.csv"));
        self.townships = data::townships(&townships)?;
        self.registrations = data::registrations(&registrations, self.registrations_bytes(), SEED)?;
        for (code, path, counts) in
            [(TOWNSHIPS, &townships, self.townships), (REGISTRATIONS, &registrations, self.registrations)]
        {
            let pushed = self.world.agent(&self.provider, ["push", "batch", code]).arg(path).run(0)?;
            let (rows, at, seconds) = (number_of(&pushed, "rows")?, file_name(path), pushed.seconds);
            check(rows == counts.rows, || format!("{rows} rows of {at} were taken, the source has {}", counts.rows))?;
            let mb = counts.bytes as f64 / 1e6;
            account.step(
                "push_rows",
                format!(
                    "{rows} rows of {at} ({mb:.1} MB) are in the lake after {seconds:.2} s, with a receipt in hand."
                ),
                format!("{at} 的 {rows} 行（{mb:.1} MB）用 {seconds:.2} 秒入湖，已取得回执。"),
                vec![pushed.command.clone()],
                pushed.json()?,
            );
        }
        Ok(())
    }

    pub(super) fn apply(&self, shared: &Shared, account: &mut Account) -> Result<Grants, BenchError> {
        let within = |region: &str| format!("region within '{region}'");
        let (province, city) = (within(PROVINCE), within(CITY));
        let township = |rows| Asked {
            entry: shared.townships,
            basis: "政务数据共享条例",
            scenario: "区划代码核对",
            purpose: "区划代码核对",
            method: "batch_exchange",
            columns: &TOWNSHIP_COLUMNS,
            rows,
        };
        let registration = |columns, rows| Asked {
            entry: shared.registrations,
            basis: "社会救助暂行办法",
            scenario: "低收入家庭经济状况核对",
            purpose: "低收入家庭核对",
            method: "batch_exchange",
            columns,
            rows,
        };
        let files = Asked {
            entry: shared.files,
            basis: "测试",
            scenario: "档案迁移",
            purpose: "测试",
            method: "file_download",
            columns: &[],
            rows: None,
        };
        let grant = |requester: &Agency, name: &str, asked: Asked<'_>| {
            self.world.grant(requester, &self.provider, &self.save(name, &asked.to_toml())?)
        };
        let grants = Grants {
            province_townships: grant(&self.province, "province-townships.toml", township(Some(&province)))?,
            city_townships: grant(&self.city, "city-townships.toml", township(Some(&city)))?,
            province_registrations: grant(
                &self.province,
                "province-registrations.toml",
                registration(&COLUMNS, Some(&province)),
            )?,
            city_registrations: grant(&self.city, "city-registrations.toml", registration(&COLUMNS, Some(&city)))?,
            city_files: grant(&self.city, "city-files.toml", files)?,
            whole: grant(&self.province, "whole.toml", registration(&ALL_COLUMNS, None))?,
        };
        account.step(
            "apply",
            "Six applications were made and answered, each signed by an office head; six grants are in force."
                .to_owned(),
            "六份共享申请已提出并答复，均由共享工作机构负责人签署；六项共享权限已生效。".to_owned(),
            vec![
                "lingqu apply city-registrations.toml --key office-head".to_owned(),
                "lingqu answer application-… --approve --key office-head".to_owned(),
            ],
            json!({ "grants": 6 }),
        );
        Ok(grants)
    }

    pub(super) fn pull_rows(&self, grants: &Grants, account: &mut Account) -> Result<(), BenchError> {
        let pulls = [
            (&self.province, PROVINCE, &grants.province_townships, "province-townships.csv", self.townships.province),
            (&self.city, CITY, &grants.city_townships, "city-townships.csv", self.townships.city),
            (
                &self.province,
                PROVINCE,
                &grants.province_registrations,
                "province-registrations.parquet",
                self.registrations.province,
            ),
            (&self.city, CITY, &grants.city_registrations, "city-registrations.csv", self.registrations.city),
        ];
        for (agency, region, grant, name, expected) in pulls {
            let out = self.data(name);
            let pulled = self.world.agent(agency, ["pull", grant, "--out"]).arg(&out).run(0)?;
            let rows = number_of(&pulled, "rows")?;
            check(rows == expected, || format!("{rows} rows were told in {name}, the source has {expected}"))?;
            let there = rows_in(&out, region)?;
            let who = if region == PROVINCE { "province" } else { "city" };
            check(there == expected, || format!("{there} rows of {region} are in {name}, the source has {expected}"))?;
            account.step(
                "pull_rows",
                format!(
                    "The {who} got exactly its {rows} rows ({name}): all are within {region}, as many as the source has."
                ),
                format!("{}取得其 {rows} 行（{name}），全部属于 {region}，与源数据行数一致。", agency.name),
                vec![pulled.command.clone()],
                pulled.json()?,
            );
        }
        Ok(())
    }

    pub(super) fn ask_for_more(&self, grants: &Grants, account: &mut Account) -> Result<(), BenchError> {
        let out = self.data("never.csv");
        let guess = "operator_name = '王伟'";
        let asks: [(&str, &str, Vec<&str>); 4] = [
            (
                "a column that was not granted",
                "未获准的数据项",
                vec![&grants.city_registrations, "--columns", "operator_name"],
            ),
            (
                "rows by a column that was not granted",
                "按未获准的数据项筛选",
                vec![&grants.city_registrations, "--where", guess],
            ),
            ("another purpose", "其他用途", vec![&grants.city_registrations, "--purpose", "商业推广"]),
            ("another agency's grant", "其他部门的共享权限", vec![&grants.province_registrations]),
        ];
        for (what, what_zh, args) in asks {
            let asked = self.world.agent(&self.city, ["pull"]).args(args).arg("--out").arg(&out).run(DENIED)?;
            check(!out.exists(), || format!("{} exists after a denial", out.display()))?;
            let error = asked.error_json().unwrap_or(Value::Null);
            let word = error.get("word").and_then(Value::as_str).unwrap_or("").to_owned();
            account.step(
                "denied",
                format!("The city asked for {what}: denied (exit code {DENIED}, {word}). Nothing was written."),
                format!("市级部门请求{what_zh}：被拒绝（退出码 {DENIED}，{word}），未写出任何数据。"),
                vec![asked.command.clone()],
                json!({ "exit": DENIED, "error": error }),
            );
        }
        Ok(())
    }

    /// Gives the receipt of the push.
    pub(super) fn kill_and_resume(&self, grants: &Grants, account: &mut Account) -> Result<PathBuf, BenchError> {
        let source = self.data("archive.bin");
        let bytes = self.file_bytes();
        let expected = write_file(&source, bytes, &mut Seeded::new(SEED, "archive"))?;
        let id = transfer_id(&mut Seeded::new(SEED, "archive transfer"));
        let push = self.world.agent(&self.provider, ["push", "file", FILES]).arg(&source);
        let push = push.args(["--idempotency-key", &id]);
        let command = push.text();
        let (before, until) = (folder_bytes(&self.world.gateway_dir()), Instant::now() + HALF_WAY);
        let mut running = push.start()?;
        let arrived = loop {
            let arrived = folder_bytes(&self.world.gateway_dir()).saturating_sub(before);
            if arrived >= bytes / 2 {
                break arrived;
            }
            check(!running.ended()? && Instant::now() < until, || "the push did not get half way".to_owned())?;
            sleep(Duration::from_millis(2));
        };
        check(running.kill()?.exit.is_none(), || "the push ended before it was killed".to_owned())?;
        let resumed = self.world.agent(&self.provider, ["transfer", "resume", &id]).run(0)?;
        let told = resumed.json()?;
        let digest = text_with(&told, "blake3:").unwrap_or_default().to_owned();
        let all = told.to_string();
        check(all.contains(&expected), || format!("the program's b3sum is not {expected}: {all}"))?;
        let kept = number_of(&resumed, "resumed_bytes")?;
        let sent = number_of(&resumed, "sent_bytes")?;
        let mib = |bytes: u64| bytes / (1 << 20);
        account.step(
            "kill_and_resume",
            format!(
                "A push of {} MiB was killed (kill -9) after {} MiB; resumed, {} MiB were there already and {} MiB were sent. b3sum {}… on both sides.",
                mib(bytes), mib(arrived), mib(kept), mib(sent), cut(&expected)
            ),
            format!(
                "推送 {} MiB 文件，到 {} MiB 时被强制终止（kill -9）；恢复时已有 {} MiB，续传 {} MiB。两侧 b3sum 均为 {}…。",
                mib(bytes), mib(arrived), mib(kept), mib(sent), cut(&expected)
            ),
            vec![command, "kill -9 …".to_owned(), resumed.command.clone()],
            json!({ "killed_at_bytes": arrived, "b3sum": expected, "digest": digest, "resumed": told }),
        );
        let out = self.data("archive-at-city");
        let pulled = self.world.agent(&self.city, ["pull", &grants.city_files, "--out"]).arg(&out).run(0)?;
        let found = b3sum(&only_file(&out)?)?;
        check(found == expected, || format!("the city's b3sum is {found}, the source's {expected}"))?;
        account.step(
            "pull_file",
            format!("The city pulled the file in {:.2} s: the same b3sum {}….", pulled.seconds, cut(&found)),
            format!("市级部门用 {:.2} 秒拉取该文件：b3sum 同为 {}…。", pulled.seconds, cut(&found)),
            vec![pulled.command.clone()],
            pulled.json()?,
        );
        let receipt = self.provider.profile.join("receipts").join(format!("{id}.json"));
        check(receipt.is_file(), || format!("{} is not there", receipt.display()))?;
        Ok(receipt)
    }

    pub(super) fn suspend(&self, grants: &Grants, account: &mut Account) -> Result<(), BenchError> {
        let pull = self.world.agent(&self.province, ["pull", &grants.whole, "--out", "-"]);
        let command = pull.text();
        let mut running = pull.start()?;
        let mut stdout = running.take_stdout().ok_or_else(|| BenchError::Wrong("no standard output".to_owned()))?;
        let mut got = vec![0; 1 << 16];
        stdout.read_exact(&mut got).map_err(BenchError::system("reading the first rows"))?;
        sleep(HOLD);
        let suspend =
            self.world.agent(&self.provider, ["grant", "suspend", &grants.whole, "--reason", "演示：超范围使用线索"]);
        let suspended = suspend.run(0)?;
        stdout.read_to_end(&mut got).map_err(BenchError::system("reading the rest"))?;
        let outcome: Outcome = running.finish()?;
        check(outcome.exit == Some(SUSPENDED), || {
            format!("the pull ended with {:?} and not {SUSPENDED}: {}", outcome.exit, outcome.tail())
        })?;
        check(!got.ends_with(&ARROW_END), || "a stream that was cut ends as if it were whole".to_owned())?;
        let error = outcome.error_json().unwrap_or(Value::Null);
        let word = error.get("word").and_then(Value::as_str).unwrap_or("").to_owned();
        let mb = got.len() as f64 / 1e6;
        account.step(
            "suspend",
            format!(
                "A grant was suspended while its pull was held up by the reader: the command took {:.2} s, the stream broke off after {mb:.1} MB without an end record (exit code {SUSPENDED}, {word}).",
                suspended.seconds
            ),
            format!(
                "读取方暂缓读取时暂停其共享权限：命令用时 {:.2} 秒，数据流在 {mb:.1} MB 处中断，没有结束记录（退出码 {SUSPENDED}，{word}）。",
                suspended.seconds
            ),
            vec![command, suspended.command.clone()],
            json!({ "exit": SUSPENDED, "received_bytes": got.len(), "suspend": suspended.json()?, "error": error }),
        );
        let again = self.world.agent(&self.province, ["pull", &grants.whole, "--out"]).arg(self.data("never.parquet"));
        again.run(SUSPENDED)?;
        Ok(())
    }

    pub(super) fn verify_offline(&mut self, receipt: &Path, account: &mut Account) -> Result<(), BenchError> {
        check(self.world.drain()?, || "the gateway did not drain within its time".to_owned())?;
        let verify = Line::new(&self.world.programs.agent).args(["--json", "receipt", "verify"]).arg(receipt);
        let verified = verify.arg("--trust").arg(self.world.root().join("root.pub")).run(0)?;
        let told = verified.json()?;
        let index = value_of(&told, "index").or_else(|| value_of(&told, "log_index")).cloned().unwrap_or(Value::Null);
        account.step(
            "verify",
            format!("The gateway drained and ended. The receipt was verified offline from the root's public key alone (ledger index {index})."),
            format!("网关已排空并停止。仅凭根公钥离线验证了回执（账本序号 {index}）。"),
            vec![verified.command.clone()],
            told,
        );
        Ok(())
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The start of a digest, enough to compare by eye.
fn cut(digest: &str) -> &str {
    digest.get(..16).unwrap_or(digest)
}

/// Rows of a CSV or Parquet file; each must be of `region`.
fn rows_in(path: &Path, region: &str) -> Result<u64, BenchError> {
    let failed = || format!("reading {}", path.display());
    let mut rows = 0;
    let mut count = |found: &str| {
        rows += 1;
        check(found.starts_with(region), || format!("a row of {found} is in {}", path.display()))
    };
    if path.extension().is_some_and(|end| end == "csv") {
        let mut reader = csv::Reader::from_path(path).map_err(BenchError::data(failed()))?;
        let place = reader.headers().map_err(BenchError::data(failed()))?.iter().position(|name| name == "region");
        for row in reader.records() {
            let row = row.map_err(BenchError::data(failed()))?;
            count(place.and_then(|i| row.get(i)).unwrap_or_default())?;
        }
        return Ok(rows);
    }
    let file = File::open(path).map_err(BenchError::io("opening", path))?;
    let reader =
        ParquetRecordBatchReaderBuilder::try_new(file).and_then(|b| b.build()).map_err(BenchError::data(failed()))?;
    for batch in reader {
        let batch = batch.map_err(BenchError::data(failed()))?;
        let column = batch.column_by_name("region").ok_or_else(|| BenchError::data(failed())("no column region"))?;
        let column =
            arrow::compute::cast(column, &arrow::datatypes::DataType::Utf8).map_err(BenchError::data(failed()))?;
        for found in arrow::array::AsArray::as_string::<i32>(&column) {
            count(found.unwrap_or_default())?;
        }
    }
    Ok(rows)
}
