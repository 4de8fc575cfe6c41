//! Sending and getting, and what is under way.

use super::args::PushBatchArgs;
use super::args::{MatchArgs, PullArgs, PushCommand, PushCommon, TransferCommand};
use super::{App, DONE, QUEUED, checking, write_output};
use crate::batch::ReadOptions;
use crate::batch::reject::RejectOptions;
use crate::batch::sink::{Format, WriteOptions};
use crate::connect::{Link, unexpected};
use crate::download::{self, Got};
use crate::error::{AgentError, Told};
use crate::notary::ProfileNotary;
use crate::outbox::{Hold, KeysWork, Outbox, PullWork, Record, State, Work, id_from_key};
use crate::output::{Output, Table};
use crate::transfer::{Env, Patience};
use crate::upload::collect::{collect, collect_rows};
use crate::upload::read::How;
use crate::upload::{batch, files};
use lingqu_protocol::close::CloseCode;
use lingqu_protocol::host::{Disk, Timestamp};
use lingqu_protocol::ids::TransferId;
use lingqu_protocol::predicate::Predicate;
use lingqu_protocol::receipt::Receipt;
use lingqu_protocol::region::RegionCode;
use lingqu_protocol::wire::{CancelTransfer, reply, request};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a transfer of this command runs on.
pub(super) struct Desk {
    pub(super) env: Env,
    pub(super) link: Link,
}

impl Desk {
    pub(super) fn new(app: &App) -> Result<Self, AgentError> {
        let link = app.link()?;
        let profile = link.profile().clone();
        let outbox = Outbox::open(app.machine.disk.clone(), app.machine.clock.clone(), profile.dir())?;
        let disk = app.machine.disk.clone();
        outbox.sweep_if_due(|id, work| clean(disk.as_ref(), id, work));
        let env = Env {
            disk: app.machine.disk.clone(),
            clock: app.machine.clock.clone(),
            outbox,
            notary: Arc::new(ProfileNotary::new(profile)),
            patience: Patience::default(),
            show_progress: !app.output.json,
        };
        Ok(Self { env, link })
    }

    /// Writes a transfer down, durably, before anything of it moves.
    fn write_down(&self, app: &App, entry: &str, key: Option<&str>, work: Work) -> Result<(Hold, Record), AgentError> {
        let Some(key) = key else { return self.env.outbox.create(app.machine.entropy.as_ref(), work) };
        let agent = self.link.profile().settings().agent.to_string();
        // A key that is a transfer's id is that id.
        let id = key.parse().map_or_else(|_| id_from_key(&agent, entry, key), Ok)?;
        self.env.outbox.create_as(id, work)
    }
}

/// `push`.
pub(super) async fn push(app: &App, command: PushCommand) -> Result<u8, AgentError> {
    let (entry, work, common) = match command {
        PushCommand::File(args) => {
            let files = collect(&all_absolute(&args.paths)?)?;
            (args.entry.clone(), Work::PushFiles { entry: args.entry, files }, args.common)
        }
        PushCommand::Batch(args) if args.check => return checking::check(app, &args).await,
        PushCommand::Batch(args) => {
            let files = collect_rows(&all_absolute(&args.paths)?)?;
            let (mode, how) = (args.mode.word().to_owned(), how(&args)?);
            (args.entry.clone(), Work::PushBatch { entry: args.entry, mode, files, how }, args.common)
        }
    };
    let PushCommon { queue, idempotency_key, receipt } = common;
    let desk = Desk::new(app)?;
    let (hold, record) = desk.write_down(app, &entry, idempotency_key.as_deref(), work)?;
    if queue && record.state != State::Done {
        let said = json!({"id": record.id, "transfer": record.id, "state": "queued"});
        app.output.say(&said, |o| format!("{}: {}", o.pick("queued", "已排队"), record.id))?;
        return Ok(QUEUED);
    }
    run(app, &desk, &hold, record, receipt.as_deref(), idempotency_key.is_some()).await
}

/// `pull`.
pub(super) async fn pull(app: &App, args: PullArgs) -> Result<u8, AgentError> {
    let columns = asked(&args)?;
    let desk = Desk::new(app)?;
    let work = PullWork {
        target: args.target.clone(),
        version: args.version.unwrap_or(0),
        files: args.files,
        columns,
        where_text: args.where_.unwrap_or_default(),
        region: args.region.unwrap_or_default(),
        purpose: args.purpose.unwrap_or_default(),
        out: absolute(&args.out)?,
        write: WriteOptions { encoding: args.encoding, guard_formulas: args.guard_formulas },
        keys: None,
    };
    get(app, desk, work, args.idempotency_key.as_deref(), args.receipt.as_deref()).await
}

/// `match`.
pub(super) async fn match_keys(app: &App, args: MatchArgs) -> Result<u8, AgentError> {
    let mut files = collect_rows(&all_absolute(std::slice::from_ref(&args.keys))?)?;
    let (Some(file), true) = (files.pop(), files.is_empty()) else {
        let told = Told::new("keys", "a match takes one file of keys", "每次核对只接受一个主键文件");
        return Err(AgentError::Usage(told.next("name one file", "请指定一个文件")));
    };
    let MatchArgs { keys_encoding: encoding, delimiter, zone, sheet, .. } = args;
    let keys = KeysWork { file, options: ReadOptions { encoding, delimiter, zone, sheet } };
    let work = PullWork {
        target: args.target,
        version: args.version.unwrap_or(0),
        columns: args.columns.iter().map(|name| name.trim().to_owned()).collect(),
        purpose: args.purpose.unwrap_or_default(),
        out: absolute(&args.out)?,
        write: WriteOptions { encoding: args.encoding, guard_formulas: args.guard_formulas },
        keys: Some(keys),
        ..PullWork::default()
    };
    // An end that says no format is refused before anything is asked.
    Format::of(&work.out)?;
    get(app, Desk::new(app)?, work, args.idempotency_key.as_deref(), args.receipt.as_deref()).await
}

async fn get(
    app: &App,
    desk: Desk,
    work: PullWork,
    key: Option<&str>,
    copy_receipt: Option<&Path>,
) -> Result<u8, AgentError> {
    if work.write != WriteOptions::default() && Format::of(&work.out).ok() != Some(Format::Csv) {
        let told = Told::new(
            "out",
            "--encoding and --guard-formulas are for .csv",
            "--encoding 和 --guard-formulas 仅用于 .csv",
        );
        return Err(AgentError::Usage(
            told.next("leave them out, or end --out in .csv", "请去掉该选项，或输出到 .csv"),
        ));
    }
    let target = work.target.clone();
    let (hold, record) = desk.write_down(app, &target, key, Work::Pull(work))?;
    run(app, &desk, &hold, record, copy_receipt, key.is_some()).await
}

/// The columns that a pull asks for, after what it says was read: a mistake is the caller's, and nothing is written down or
/// asked of the gateway for it.
fn asked(args: &PullArgs) -> Result<Vec<String>, AgentError> {
    let usage = |option: &str, en: String, zh: String| {
        let told = Told::new("bad_option", format!("{option}: {en}"), format!("{option}：{zh}"));
        AgentError::Usage(told.next("see `lingqu pull --help`", "参见 `lingqu pull --help`"))
    };
    if let Some(text) = &args.where_ {
        Predicate::parse(text)
            .map_err(|e| usage("--where", e.to_string(), format!("第 {} 个字符处：{}", e.position, e.problem)))?;
    }
    if let Some(text) = &args.region {
        text.parse::<RegionCode>().map_err(|e| usage("--region", e.to_string(), e.to_string()))?;
    }
    let columns: Vec<String> = args.columns.iter().map(|name| name.trim().to_owned()).collect();
    for (at, name) in columns.iter().enumerate() {
        let place = at + 1;
        if name.is_empty() {
            return Err(usage("--columns", format!("name {place} is empty"), format!("第 {place} 个列名为空")));
        }
        if columns.iter().take(at).any(|before| before == name) {
            let shown = crate::output::clean(name);
            return Err(usage(
                "--columns",
                format!("name {place}, {shown:?}, is there twice"),
                format!("第 {place} 个列名 {shown:?} 重复"),
            ));
        }
    }
    Ok(columns)
}

/// A resume may be said from another folder.
fn absolute(out: &Path) -> Result<PathBuf, AgentError> {
    if out.as_os_str() == "-" {
        return Ok(out.to_owned());
    }
    std::path::absolute(out).map_err(|e| AgentError::io("finding", out, &e))
}

fn all_absolute(paths: &[PathBuf]) -> Result<Vec<PathBuf>, AgentError> {
    paths.iter().map(|path| absolute(path)).collect()
}

/// How the files of a push are read, and what is done about dirty rows.
pub(super) fn how(args: &PushBatchArgs) -> Result<How, AgentError> {
    let options =
        ReadOptions { encoding: args.encoding, delimiter: args.delimiter, zone: args.zone, sheet: args.sheet.clone() };
    let rejects = RejectOptions {
        file: args.reject.as_deref().map(absolute).transpose()?,
        rows_max: args.reject_rows_max,
        percent_max: args.reject_percent_max,
    };
    Ok(How { options, rejects, as_rows: args.no_verbatim })
}

/// Runs a transfer to its receipt, and writes down how it ended.
async fn run(
    app: &App,
    desk: &Desk,
    hold: &Hold,
    mut record: Record,
    copy_receipt: Option<&Path>,
    keep: bool,
) -> Result<u8, AgentError> {
    let outbox = &desk.env.outbox;
    if record.state != State::Done {
        outbox.set(hold, &mut record, State::Running)?;
    }
    let done = transfer_data(desk, &record).await;
    desk.link.goodbye().await;
    let mut said = match done {
        Ok(said) => said,
        // What may pass stays as it is: interrupted, to be resumed.
        Err(error) if error.is_transient() => return Err(error),
        Err(error) => {
            let told = error.told();
            let state = State::Failed { exit_code: error.exit_code(), word: told.word, text: told.what.en };
            outbox.set(hold, &mut record, state)?;
            return Err(error);
        }
    };
    let receipt = outbox.receipt(record.id)?.unwrap_or_default();
    if let Some(copy) = copy_receipt {
        write_output(copy, &receipt)?;
    }
    // What the quality rules found, as the receipt says it.
    if let (Ok(Receipt { statement, .. }), Some(fields)) = (Receipt::from_json(&receipt), said.as_object_mut())
        && !statement.quality.is_empty()
    {
        fields.insert("quality".into(), json!(statement.quality));
    }
    if keep {
        outbox.set(hold, &mut record, State::Done)?;
    } else {
        // The receipt says all of it from here on.
        outbox.remove(hold)?;
    }
    if let Work::Pull(work) = &record.work {
        if work.out.as_os_str() == "-" {
            // Standard output is the data's.
            return Ok(DONE);
        }
        download::clean(&*desk.env.disk, record.id, &work.out)?;
    }
    app.output.say(&said, |o| lines(o, &said))?;
    Ok(DONE)
}

async fn transfer_data(desk: &Desk, record: &Record) -> Result<Value, AgentError> {
    let (env, link, id) = (&desk.env, &desk.link, record.id);
    Ok(match &record.work {
        Work::PushFiles { entry, files } => {
            let sent = files::push(env, link, id, entry, files.clone()).await?;
            json!({
                "id": id, "transfer": id, "bytes": sent.bytes, "files": sent.files, "bytes_root": sent.bytes_root,
                "root": sent.root, "sent_bytes": sent.sent_bytes, "resumed_bytes": sent.resumed_bytes,
                "receipt": sent.receipt, "seconds": sent.seconds,
            })
        }
        Work::PushBatch { entry, mode, files, how } => {
            let sent = batch::push(env, link, id, entry, mode, files.clone(), how).await?;
            json!({
                "id": id, "transfer": id, "rows": sent.rows, "bytes": sent.bytes, "rows_digest": sent.rows_digest,
                "verbatim": sent.verbatim, "read": sent.read, "rejected": sent.rejected, "marked": sent.marked, "reject_file": how.rejects.file,
                "sent_bytes": sent.sent_bytes, "receipt": sent.receipt, "seconds": sent.seconds,
            })
        }
        Work::Pull(work) => {
            match download::pull(env, link, id, work, Box::new(|| Box::new(std::io::stdout()))).await? {
                Got::Files(got) => json!({
                    "id": id, "transfer": id, "version": got.version, "bytes": got.bytes, "files": got.files,
                    "bytes_root": got.bytes_root, "root": got.root, "received_bytes": got.received_bytes,
                    "resumed_bytes": got.resumed_bytes, "out": got.out, "receipt": got.receipt, "seconds": got.seconds,
                }),
                Got::Rows(got) => json!({
                    "id": id, "transfer": id, "version": got.version, "rows": got.rows, "bytes": got.bytes,
                    "bytes_root": got.bytes_root, "rows_digest": got.rows_digest, "received_bytes": got.received_bytes,
                    "out": got.out, "receipt": got.receipt, "seconds": got.seconds,
                }),
            }
        }
    })
}

/// Runs what is queued or was cut, one after the other. What fails for good says so in its record; what may pass is left for the
/// next time.
///
/// # Errors
/// An outbox that cannot be read.
pub(super) async fn drain(app: &App) -> Result<(), AgentError> {
    let desk = Desk::new(app)?;
    let (mut records, _) = desk.env.outbox.list()?;
    // The oldest first.
    records.reverse();
    for record in records {
        let waits = match record.state {
            State::Queued => true,
            State::Running => !desk.env.outbox.is_held(record.id)?,
            State::Done | State::Failed { .. } => false,
        };
        let has_place = !matches!(&record.work, Work::Pull(work) if work.out.as_os_str() == "-");
        if !waits || !has_place {
            continue;
        }
        // Another process may have taken it in between, or finished it.
        let Ok(hold) = desk.env.outbox.hold(record.id) else { continue };
        let Some(record) = desk.env.outbox.load(record.id)? else { continue };
        let id = record.id;
        match run(app, &desk, &hold, record, None, false).await {
            Ok(_) => tracing::info!(transfer = %id, "done"),
            Err(error) => tracing::warn!(transfer = %id, %error, "not done"),
        }
    }
    Ok(())
}

/// `transfer`.
pub(super) async fn transfer(app: &App, command: TransferCommand) -> Result<u8, AgentError> {
    let desk = Desk::new(app)?;
    let outbox = &desk.env.outbox;
    match command {
        TransferCommand::List => {
            let (records, more) = outbox.list()?;
            let all: Vec<Value> = records.iter().map(|r| shown(outbox, r)).collect();
            app.output.say(&Value::Array(all), |o| table(o, outbox, &records, more))?;
        }
        TransferCommand::Show(args) => show(app, outbox, args.id)?,
        TransferCommand::Resume(args) => {
            let hold = outbox.hold(args.id)?;
            let Some(record) = outbox.load(args.id)? else {
                // What is done leaves its receipt, and nothing to go on with.
                show(app, outbox, args.id)?;
                return Ok(DONE);
            };
            let keep = record.state == State::Done;
            return run(app, &desk, &hold, record, None, keep).await;
        }
        TransferCommand::Cancel(args) => cancel(app, &desk, args.id).await?,
    }
    Ok(DONE)
}

fn show(app: &App, outbox: &Outbox, id: TransferId) -> Result<(), AgentError> {
    let receipt = outbox.receipt(id)?;
    let mut said = match (outbox.load(id)?, &receipt) {
        (Some(record), _) => shown(outbox, &record),
        (None, Some(_)) => {
            json!({"id": id, "transfer": id, "state": "done", "receipt": outbox.receipt_path(id)})
        }
        (None, None) => return Err(missing(id)),
    };
    let statement = receipt.and_then(|json| Receipt::from_json(&json).ok()).map(|receipt| receipt.statement);
    if let (Some(fields), Some(statement)) = (said.as_object_mut(), statement) {
        fields.insert("version".into(), json!(statement.dataset_version));
        fields.insert("rows".into(), json!(statement.rows));
        fields.insert("bytes_root".into(), json!(statement.bytes_root));
        fields.insert("rows_digest".into(), json!(statement.rows_digest));
    }
    app.output.say(&said, |o| lines(o, &said))
}

/// Gives a transfer up here and at the gateway.
async fn cancel(app: &App, desk: &Desk, id: TransferId) -> Result<(), AgentError> {
    let outbox = &desk.env.outbox;
    let hold = outbox.hold(id)?;
    let record = outbox.load(id)?.ok_or_else(|| missing(id))?;
    if record.state != State::Queued {
        let session = desk.link.open(crate::connect::Backoff::COMMAND).await?;
        let answer = session.ask(request::Ask::Cancel(CancelTransfer { transfer: id.to_string() })).await;
        session.close();
        desk.link.goodbye().await;
        match answer {
            Ok(reply::Reply::Done(_)) => {}
            Ok(other) => return Err(unexpected("the end", &other)),
            // The gateway never heard of it.
            Err(AgentError::Refused(fault)) if fault.close_code() == CloseCode::Denied => {}
            Err(error) => return Err(error),
        }
    }
    clean(desk.env.disk.as_ref(), id, &record.work)?;
    outbox.remove(&hold)?;
    let said = json!({"id": id, "transfer": id, "state": "cancelled"});
    app.output.say(&said, |o| format!("{}: {id}", o.pick("cancelled", "已取消")))
}

/// A record that says running and that nobody runs was cut.
fn state(outbox: &Outbox, record: &Record) -> &'static str {
    match &record.state {
        // Whoever is looked at and cannot be told is taken to run.
        State::Running if !outbox.is_held(record.id).unwrap_or(true) => "interrupted",
        state => state.word(),
    }
}

/// What a transfer left beside the outbox.
fn clean(disk: &dyn Disk, id: TransferId, work: &Work) -> Result<(), AgentError> {
    match work {
        Work::Pull(pull) => download::clean(disk, id, &pull.out),
        Work::PushFiles { .. } | Work::PushBatch { .. } => Ok(()),
    }
}

fn shown(outbox: &Outbox, record: &Record) -> Value {
    let mut said = json!({
        "id": record.id, "transfer": record.id, "kind": record.work.kind(), "state": state(outbox, record),
        "created_at": Timestamp(record.created_at).to_rfc3339(),
    });
    let Some(fields) = said.as_object_mut() else { return said };
    match &record.work {
        Work::PushFiles { entry, files } | Work::PushBatch { entry, files, .. } => {
            fields.insert("entry".into(), json!(entry));
            fields.insert("files".into(), json!(files.len()));
            fields.insert("bytes".into(), json!(files.iter().map(|f| f.bytes).sum::<u64>()));
        }
        Work::Pull(work) => {
            fields.insert("target".into(), json!(work.target));
            fields.insert("out".into(), json!(work.out));
        }
    }
    if let Some(ended) = record.ended_at {
        fields.insert("ended_at".into(), json!(Timestamp(ended).to_rfc3339()));
    }
    match &record.state {
        State::Failed { exit_code, word, text } => {
            fields.insert("error".into(), json!({"exit_code": exit_code, "word": word, "text": text}));
        }
        State::Done => {
            fields.insert("receipt".into(), json!(outbox.receipt_path(record.id)));
        }
        State::Queued | State::Running => {}
    }
    said
}

fn table(o: &Output, outbox: &Outbox, records: &[Record], more: bool) -> String {
    let mut table =
        Table::new([o.pick("id", "编号"), o.pick("kind", "类型"), o.pick("state", "状态"), o.pick("since", "时间")]);
    for record in records {
        let since = Timestamp(record.created_at).to_rfc3339();
        table.row([record.id.to_string(), record.work.kind().into(), state(outbox, record).into(), since]);
    }
    let mut text = table.render();
    if more {
        text.push_str(o.pick("there are older ones\n", "还有更早的传输\n"));
    }
    text
}

/// One field a line.
fn lines(o: &Output, said: &Value) -> String {
    let mut text = format!("{}\n", o.pick("transfer", "传输"));
    for (name, value) in said.as_object().into_iter().flatten().filter(|(_, v)| !v.is_null()) {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        text.push_str(&format!("  {name}: {}\n", crate::output::clean(&value)));
    }
    text
}

fn missing(id: TransferId) -> AgentError {
    AgentError::NotFound(
        Told::new("not_found", format!("there is no {id} in this outbox"), format!("发件箱中没有 {id}"))
            .next("see `lingqu transfer list`", "参见 `lingqu transfer list`"),
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use lingqu_certs::os::{OsDisk, OsEntropy, SystemClock};

    #[test]
    fn what_was_cut_is_told_from_what_runs() {
        let dir = tempfile::tempdir().unwrap();
        let outbox = Outbox::open(Arc::new(OsDisk), Arc::new(SystemClock::new()), dir.path()).unwrap();
        let work = Work::Pull(PullWork { target: "grant".into(), out: "/x/out".into(), ..PullWork::default() });
        let (hold, mut record) = outbox.create(&OsEntropy::new(), work).unwrap();
        assert_eq!(shown(&outbox, &record)["state"], "queued");
        outbox.set(&hold, &mut record, State::Running).unwrap();
        assert_eq!(shown(&outbox, &record)["state"], "running");
        drop(hold);
        assert_eq!(shown(&outbox, &record)["state"], "interrupted");
        record.state = State::Failed { exit_code: 7, word: "source_changed".into(), text: "t".into() };
        let said = shown(&outbox, &record);
        assert_eq!((&said["state"], &said["error"]["exit_code"]), (&json!("failed"), &json!(7)));
        assert_eq!((&said["id"], &said["out"]), (&json!(record.id), &json!("/x/out")));
    }

    #[test]
    fn what_a_pull_asks_for_is_read_before_anything_is_done() {
        use crate::cli::args::{Cli, Command};
        use clap::Parser as _;
        let asked = |more: &[&str]| {
            let line = [&["lingqu", "pull", "g", "--out", "o"], more].concat();
            let Command::Pull(args) = Cli::try_parse_from(line).unwrap().command else { panic!() };
            asked(&args)
        };
        assert_eq!(asked(&["--columns", "a, b", "--where", "a = 1", "--region", "4403"]).unwrap(), ["a", "b"]);
        for (more, part) in [
            (["--where", "a = "], "character 5"),
            (["--where", ""], "character 1"),
            (["--where", "a = 1; drop"], "character 6"),
            (["--region", "440300"], "4403"),
            (["--region", "深圳"], "深圳"),
            (["--columns", "a,,b"], "name 2"),
            (["--columns", "a,b,a"], "name 3"),
        ] {
            let error = asked(&more).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{more:?}");
            assert!(error.to_string().contains(more[0]) && error.to_string().contains(part), "{more:?}: {error}");
        }
    }

    #[test]
    fn an_output_is_where_the_command_was_given() {
        assert_eq!(absolute(Path::new("-")).unwrap(), Path::new("-"));
        assert!(absolute(Path::new("rows.csv")).unwrap().is_absolute());
    }
}
