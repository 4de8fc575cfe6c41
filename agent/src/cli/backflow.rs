//! `backflow` and `reconcile`.

use super::args::{BackflowArgs, ReconcileArgs};
use super::{App, DONE};
use crate::backflow::Taken;
use crate::backflow::follow::{Age, Ground, Seen, Subscription, entry_of, follow, is_stale};
use crate::backflow::reconcile::{
    AtGateway, AtReceiver, Counted, Mismatch, at_gateway, at_gateway_for_provider, at_receiver,
};
use crate::backflow::reconcile::{provider_differs, receiver_differs};
use crate::backflow::spec::SinkSpec;
use crate::connect::{Backoff, Link};
use crate::error::{AgentError, Told};
use crate::outbox::Outbox;
use crate::output::{Language, Output, clean};
use crate::transfer::{Meter, blocking};
use lingqu_protocol::entry::EntrySpec;
use lingqu_protocol::host::Timestamp;
use lingqu_protocol::receipt::Receipt;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Exit code of a nightly run for which nothing fresh came: what was asked for is not done yet.
const NOT_YET: u8 = 8;

/// Patience of a follower that stays: it never gives up.
pub(super) const FOREVER: Backoff =
    Backoff { tries_max: u32::MAX, first: Duration::from_millis(500), most: Duration::from_secs(60) };

/// Patience of one that ends: some minutes, which is a gateway's restart and a network's hiccup.
const ONCE: Backoff = Backoff { tries_max: 12, first: Duration::from_millis(500), most: Duration::from_secs(30) };

/// Differences that are listed: more nobody reads.
const SHOWN_MAX: usize = 50;

/// `backflow`.
pub(super) async fn backflow(app: &App, args: BackflowArgs) -> Result<u8, AgentError> {
    let spec = SinkSpec::of(&args.sink.said())?;
    let link = app.link()?;
    let is_stdout = spec.kind() == "stdout";
    let ground = ground(&link, app, if args.follow { FOREVER } else { ONCE }, stop_on_signal());
    let subscription = subscription(app, &link, &spec, args.entry.clone(), args.columns.clone(), !args.follow);
    let mut report =
        Report { output: app.output, lines: args.follow && !is_stdout, quiet: is_stdout, ..Report::new(&spec) };
    let followed = follow(&link, &ground, subscription, &mut |seen| report.see(seen)).await;
    link.goodbye().await;
    let age = followed?;
    let stale = args.max_age.and_then(|most| {
        let most = i64::try_from(most.as_millis()).unwrap_or(i64::MAX);
        is_stale(age, most)
    });
    if !report.lines && !is_stdout {
        let said = report.document(age, stale.is_none());
        app.output.say(&said, |o| lines(o, &said))?;
    }
    match stale {
        None => Ok(DONE),
        Some(told) => {
            let what = if app.output.language == Language::Chinese { &told.what.zh } else { &told.what.en };
            tracing::warn!(word = told.word, "{what}");
            eprintln!("{}", clean(what));
            Ok(NOT_YET)
        }
    }
}

/// What a subscription of this agent is.
pub(super) fn subscription(
    app: &App,
    link: &Link,
    spec: &SinkSpec,
    entry: String,
    columns: Vec<String>,
    once: bool,
) -> Subscription {
    let (machine, profile) = (app.machine.clone(), link.profile().dir().to_owned());
    let (spec, runtime) = (spec.clone(), tokio::runtime::Handle::current());
    Subscription {
        entry,
        columns,
        once,
        kind: spec.kind(),
        sink: format!("{} {}", spec.kind(), spec.name()),
        make: Box::new(move |entry| Ok(spec.build(&machine, &profile, runtime, entry))),
    }
}

/// What following is given from this program.
pub(super) fn ground(link: &Link, app: &App, backoff: Backoff, stop: watch::Receiver<bool>) -> Ground {
    Ground {
        agent: link.profile().settings().agent.to_string(),
        entropy: app.machine.entropy.clone(),
        backoff,
        meter: Arc::new(Meter::new(0, !app.output.json)),
        stop,
    }
}

/// Becomes true with the first SIGTERM or SIGINT; the second ends the program at once.
pub(super) fn stop_on_signal() -> watch::Receiver<bool> {
    use tokio::signal::unix::{SignalKind, signal};
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(async move {
        let (Ok(mut term), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
        else {
            tracing::warn!("signals cannot be heard; a kill ends this program as it always may");
            return;
        };
        let mut heard = false;
        loop {
            tokio::select! { _ = term.recv() => {}, _ = interrupt.recv() => {} }
            if heard {
                std::process::exit(130);
            }
            heard = true;
            // Nobody listens where there is nothing to stop any more.
            let _gone = stop.send(true);
        }
    });
    stopped
}

/// What was seen, for the document at the end; or a line for each version.
struct Report {
    output: Output,
    lines: bool,
    quiet: bool,
    kind: &'static str,
    promise: &'static str,
    sink: String,
    began: Option<Value>,
    versions: Vec<Value>,
    last: Option<Taken>,
    version: u64,
}

impl Report {
    fn new(spec: &SinkSpec) -> Self {
        Self {
            output: Output { json: false, language: Language::English },
            lines: false,
            quiet: false,
            kind: spec.kind(),
            promise: spec.promise().word(),
            sink: spec.name(),
            began: None,
            versions: Vec::new(),
            last: None,
            version: 0,
        }
    }

    fn see(&mut self, seen: Seen) {
        match seen {
            Seen::Began { id, entry, regions, version } => {
                self.version = version;
                self.began = Some(json!({"id": id, "entry": entry, "regions": regions}));
            }
            Seen::Took(taken) => {
                self.version = taken.version;
                let said = version_json(&taken);
                if self.lines
                    && let Err(error) = self.output.say(&said, |o| line(o, &taken))
                {
                    tracing::warn!(%error, "what was taken could not be said");
                }
                if !self.quiet && !self.lines {
                    self.versions.push(said);
                }
                self.last = Some(taken);
            }
            Seen::CaughtUp(age) => tracing::info!(version = age.version, age_ms = age.age_ms, "everything is here"),
        }
    }

    fn document(&self, age: Option<Age>, fresh: bool) -> Value {
        let mut said = self.began.clone().unwrap_or_else(|| json!({"id": null}));
        if let Some(fields) = said.as_object_mut() {
            let held = self.last.as_ref().and_then(|taken| taken.held);
            fields.insert("kind".into(), json!(self.kind));
            fields.insert("sink".into(), json!(self.sink));
            fields.insert("promise".into(), json!(self.promise));
            fields.insert("version".into(), json!(self.version));
            fields.insert("versions".into(), json!(self.versions));
            fields.insert("rows".into(), json!(held.map(|held| held.0)));
            fields.insert("rows_digest".into(), json!(held.map(|held| held.1)));
            fields.insert("age_ms".into(), json!(age.map(|age| age.age_ms)));
            fields.insert("fresh".into(), json!(fresh));
        }
        said
    }
}

fn version_json(taken: &Taken) -> Value {
    json!({
        "version": taken.version, "mode": taken.mode.as_str(), "rows": taken.rows, "bytes": taken.bytes,
        "rows_digest": taken.rows_digest, "bytes_root": taken.bytes_root,
        "held_rows": taken.held.map(|held| held.0), "held_digest": taken.held.map(|held| held.1),
        "committed_at": Timestamp(taken.committed_at_ms).to_rfc3339(),
    })
}

fn line(o: &Output, taken: &Taken) -> String {
    let held = taken.held.map(|(rows, _)| format!("{} {rows}", o.pick("; held:", "；现有"))).unwrap_or_default();
    let (version, mode, rows) = (taken.version, taken.mode, taken.rows);
    match o.language {
        Language::English => format!("version {version} ({mode}): {rows} rows came, durable{held}"),
        Language::Chinese => format!("第 {version} 版（{mode}）：收到 {rows} 行，已持久化{held} 行"),
    }
}

/// One field a line.
fn lines(o: &Output, said: &Value) -> String {
    let mut text = format!("{}\n", o.pick("backflow", "回流"));
    for (name, value) in said.as_object().into_iter().flatten().filter(|(_, v)| !v.is_null()) {
        let value = match value {
            Value::String(text) => text.clone(),
            Value::Array(all) if name == "versions" => all.len().to_string(),
            other => other.to_string(),
        };
        text.push_str(&format!("  {name}: {}\n", clean(&value)));
    }
    text
}

/// `reconcile`.
pub(super) async fn reconcile(app: &App, args: ReconcileArgs) -> Result<u8, AgentError> {
    let has_sink = args.sink.out.is_some() || args.sink.exec.is_some() || args.sink.postgres.is_some();
    let spec = if has_sink { Some(SinkSpec::of(&args.sink.said())?) } else { None };
    let profile = app.profile()?.dir().to_owned();
    let (id, entry) = app.with_session(async |session| entry_of(session, &args.entry).await).await?;
    let receiver = match &spec {
        Some(spec) => Some(counted(app, spec, &profile, &id, &entry).await?),
        None => None,
    };
    let version = args.version.or_else(|| receiver.as_ref().map(|receiver| receiver.version));
    if let (Some(receiver), Some(version)) = (&receiver, args.version)
        && receiver.version != version
    {
        return Err(other_version(receiver.version, version));
    }
    let gateway = app
        .with_session(async |session| match receiver {
            Some(_) => at_gateway(session, &id, version).await,
            None => at_gateway_for_provider(session, &id, version).await,
        })
        .await?;
    let mut found = Vec::new();
    if let Some(receiver) = &receiver {
        let names: Vec<&str> = entry.items.iter().map(|item| item.name.as_str()).collect();
        let all = gateway.slice.as_ref().is_some_and(|(_, columns)| *columns == names);
        found.extend(receiver_differs(&gateway, receiver, all));
    }
    let pushed = pushed_here(app, &profile, &gateway)?;
    found.extend(pushed.as_ref().and_then(|receipt| provider_differs(&gateway, receipt)));
    let said = document(&id, &gateway, receiver.as_ref(), pushed.as_ref(), &found);
    app.output.say(&said, |o| table(o, &gateway, receiver.as_ref(), &found))?;
    if found.is_empty() { Ok(DONE) } else { Err(not_equal(&found)) }
}

async fn counted(
    app: &App,
    spec: &SinkSpec,
    profile: &std::path::Path,
    id: &str,
    entry: &EntrySpec,
) -> Result<AtReceiver, AgentError> {
    let mut sink = spec.build(&app.machine, profile, tokio::runtime::Handle::current(), id);
    let (id, region) = (id.to_owned(), entry.region_item().map(|item| item.name.clone()));
    let counted = blocking(move || at_receiver(&mut *sink, &id, region.as_deref())).await?;
    counted.ok_or_else(|| {
        let name = spec.name();
        let told = Told::new("empty_sink", format!("{name} holds nothing yet"), format!("{name} 中尚无数据"));
        AgentError::NotFound(told.next("run `lingqu backflow` first", "请先执行 `lingqu backflow`"))
    })
}

/// The receipt of the push that made the version, where this agent pushed it.
fn pushed_here(app: &App, profile: &std::path::Path, gateway: &AtGateway) -> Result<Option<Counted>, AgentError> {
    let transfer = gateway.provider.get("transfer").and_then(Value::as_str).and_then(|id| id.parse().ok());
    let Some(transfer) = transfer else { return Ok(None) };
    let outbox = Outbox::open(app.machine.disk.clone(), app.machine.clock.clone(), profile)?;
    let Some(json) = outbox.receipt(transfer)? else { return Ok(None) };
    let statement = Receipt::from_json(&json).map(|receipt| receipt.statement).ok();
    Ok(statement.and_then(|said| Some(Counted { rows: said.rows?, digest: said.rows_digest })))
}

fn document(
    id: &str,
    gateway: &AtGateway,
    receiver: Option<&AtReceiver>,
    pushed: Option<&Counted>,
    found: &[Mismatch],
) -> Value {
    let slice = gateway.slice.as_ref();
    json!({
        "id": id, "version": gateway.version, "equal": found.is_empty(),
        "provider": gateway.provider,
        "provider_receipt": pushed.map(|p| json!({"rows": p.rows, "rows_digest": p.digest})),
        "gateway": {
            "rows": gateway.whole.rows, "rows_digest": gateway.whole.digest,
            "slice": slice.map(|(s, columns)| json!({"rows": s.rows, "rows_digest": s.digest, "columns": columns})),
            "regions": gateway.regions.len(),
        },
        "receiver": receiver.map(|r| json!({
            "version": r.version, "rows": r.sum.count, "rows_digest": r.sum.digest(), "regions": r.regions.len(),
        })),
        "differences": found.iter().map(Mismatch::json).collect::<Vec<_>>(),
    })
}

fn table(o: &Output, gateway: &AtGateway, receiver: Option<&AtReceiver>, found: &[Mismatch]) -> String {
    let head = match o.language {
        Language::English => format!("version {}", gateway.version),
        Language::Chinese => format!("第 {} 版", gateway.version),
    };
    let mut text = format!("{head}\n");
    let mut line = |name: &str, counted: &Counted| {
        let digest = counted.digest.map(|digest| digest.to_string()).unwrap_or_default();
        text.push_str(&format!("  {name}: {} {} {digest}\n", counted.rows, o.pick("rows", "行")));
    };
    line(o.pick("gateway, whole", "网关（全部）"), &gateway.whole);
    if let Some((slice, _)) = &gateway.slice {
        line(o.pick("gateway, this region", "网关（本地区）"), slice);
    }
    if let Some(receiver) = receiver {
        let here = Counted { rows: receiver.sum.count, digest: Some(receiver.sum.digest()) };
        line(o.pick("receiver", "接收方"), &here);
    }
    if found.is_empty() {
        text.push_str(o.pick("equal\n", "一致\n"));
    }
    for difference in found.iter().take(SHOWN_MAX) {
        let json = difference.json();
        let region = if difference.region.is_empty() { o.pick("all", "合计") } else { &difference.region };
        let (missing, more) = (&json["missing"], &json["too_many"]);
        text.push_str(&format!(
            "  {}: {} {missing}, {} {more} ({})\n",
            clean(region),
            o.pick("missing", "缺少"),
            o.pick("too many", "多出"),
            difference.side
        ));
    }
    if found.len() > SHOWN_MAX {
        text.push_str(o.pick("  and more: --json has all\n", "  ……其余见 --json\n"));
    }
    text
}

fn not_equal(found: &[Mismatch]) -> AgentError {
    let regions = found.iter().filter(|m| !m.region.is_empty()).count();
    AgentError::Integrity(
        Told::new(
            "not_equal",
            format!("rows or digests differ, in {regions} regions"),
            format!("行数或摘要不一致，涉及 {regions} 个地区"),
        )
        .next(
            "a new folder or table begins with everything; tell the gateway's operator if it comes back",
            "改用新的目录或表将从头接收；若再次出现请告知网关运维人员",
        ),
    )
}

fn other_version(held: u64, asked: u64) -> AgentError {
    let told = Told::new(
        "other_version",
        format!("the sink holds version {held}, and --at says {asked}"),
        format!("本地为第 {held} 版，而 --at 指定第 {asked} 版"),
    );
    AgentError::Usage(told.next("leave --at out", "请去掉 --at"))
}
