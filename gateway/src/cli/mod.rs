//! The command `lingqu-gateway`.

mod args;
mod output;
mod roots;

pub use args::Cli;

use crate::admin::{self, Command, Failure};
use crate::app::{self, ServeOptions};
use crate::folder;
use crate::top::terminal;
use args::{Act, Agency, Agent, Findings, Initial, Ledger, Officer, Renewal, Said, Selection};
use lingqu_certs::joining::JOIN_FILE_BYTES_MAX;
use lingqu_certs::os::{self, OsEntropy, SystemClock};
use lingqu_protocol::documents::FindingAct;
use output::Output;
use serde_json::{Value, json};
use std::path::Path;

/// Bytes of a file with a checkpoint: a note has a few lines.
const CHECKPOINT_BYTES_MAX: u64 = 16 * 1024;

/// Does what the command line says; gives the exit code.
pub async fn run(cli: Cli) -> u8 {
    let output = Output { json: cli.json };
    match act(&cli, &output).await {
        Ok(()) => 0,
        Err(failure) => {
            output.say_failure(&failure);
            failure.code
        }
    }
}

async fn act(cli: &Cli, output: &Output) -> Result<(), Failure> {
    let dir = cli.dir.as_path();
    match &cli.act {
        Act::Init(args) => init(dir, args, output).await,
        Act::Serve { listen, http } => {
            let options = ServeOptions { listen: *listen, http: *http };
            app::serve(dir, options).await.map_err(Failure::from)
        }
        Act::Agency(Agency::Add(args)) => {
            let envelope = roots::agency(dir, args)?;
            let added = admin::run(dir, Command::AgencyAdd { envelope }).await?;
            output.say(&added, |v| format!("added {} {}\n已登记部门", text(v, "id"), text(v, "name")))
        }
        Act::Agency(Agency::Change(args)) => {
            let standing = admin::run(dir, Command::AgencyShow { code: args.code.clone() }).await?;
            let envelope = roots::agency_over(dir, args, &standing)?;
            let changed = admin::run(dir, Command::AgencyChange { envelope }).await?;
            output.say(&changed, |v| format!("changed {} {}\n已变更部门信息", text(v, "id"), text(v, "name")))
        }
        Act::Agency(Agency::Show { code }) => {
            let found = admin::run(dir, Command::AgencyShow { code: code.clone() }).await?;
            output.say(&found, output::agency)
        }
        Act::Agency(Agency::Import { file, root }) => import(dir, file, root, output).await,
        Act::Agency(Agency::List) => {
            let all = list(dir, "agencies", |after| Command::AgencyList { after }).await?;
            output.say(&all, output::agencies)
        }
        Act::Agent(Agent::List) => {
            let all = list(dir, "agents", |after| Command::AgentList { after }).await?;
            output.say(&all, output::agents)
        }
        Act::Subscriptions { behind } => {
            let mut all = list(dir, "subscriptions", |after| Command::SubscriptionList { after }).await?;
            if *behind && let Value::Array(all) = &mut all {
                all.retain(|subscription| subscription["behind"].as_u64().unwrap_or(0) > 0);
            }
            output.say(&all, output::subscriptions)
        }
        Act::Officer(Officer::Add { request, root, out }) => {
            if out.exists() {
                let text = format!("{} is there already", out.display());
                return Err(Failure::usage(text, "choose another file with --out; nothing is overwritten"));
            }
            let envelope = roots::officer(dir, request, root)?;
            let added = admin::run(dir, Command::OfficerAdd { envelope: envelope.clone() }).await?;
            write(out, envelope.as_bytes())?;
            output.say(&added, |v| {
                let (name, role, agency) = (text(v, "name"), text(v, "role"), text(v, "agency"));
                format!("added {name}, {role} of {agency}; give {} back\n已登记人员，请将证书交还本人", out.display())
            })
        }
        Act::Invite { code, agent, ttl } => {
            let command = Command::Invite { agency: code.clone(), agent: agent.clone(), ttl_ms: ttl.0 };
            let made = admin::run(dir, command).await?;
            // On the terminal the line stands alone, so that a script without --json can take it as it is.
            output.say(&made, |v| text(v, "invitation"))?;
            output.hint(&format!(
                "open for one agent until {}; a secret: hand it over in person or sealed\n邀请仅限一次使用，请妥善交付",
                text(&made, "expires_at")
            ));
            Ok(())
        }
        Act::Renewal(Renewal::Approve { agent, ttl }) => {
            let command = Command::RenewalApprove { agent: agent.clone(), ttl_ms: ttl.0 };
            let approved = admin::run(dir, command).await?;
            output.say(&approved, |v| {
                let (id, until) = (text(v, "id"), text(v, "expires_at"));
                format!("{id} may renew once until {until}: `lingqu renew` there\n已批准续期一次，请在该机器上执行 lingqu renew")
            })
        }
        Act::Renewal(Renewal::List) => {
            let all = list(dir, "renewals", |after| Command::RenewalList { after }).await?;
            output.say(&all, output::renewals)
        }
        Act::Renewal(Renewal::Withdraw { agent }) => {
            let done = admin::run(dir, Command::RenewalWithdraw { agent: agent.clone() }).await?;
            output.say(&done, |v| format!("withdrawn for {}\n已撤回续期批准", text(v, "id")))
        }
        Act::Join { request, out } => {
            let request = read(request, JOIN_FILE_BYTES_MAX as u64)?;
            let made = admin::run(dir, Command::Join { request }).await?;
            write(out, text(&made, "answer").as_bytes())?;
            let made = json!({ "id": made["id"], "answer": out.display().to_string() });
            output.say(&made, |v| format!("{} may join with {}\n请将此文件交还", text(v, "id"), text(v, "answer")))
        }
        Act::Stop(selection) => {
            let (selector, reason) = selected(selection);
            let done = admin::run(dir, Command::Stop { selector, reason }).await?;
            output.say(&done, |v| format!("stopped {}\n已阻断", text(v, "id")))
        }
        Act::Resume(selection) => {
            let (selector, reason) = selected(selection);
            let done = admin::run(dir, Command::Resume { selector, reason }).await?;
            output.say(&done, |v| format!("resumed {}\n已恢复", text(v, "id")))
        }
        Act::Check => {
            let found = admin::run(dir, Command::Check {}).await?;
            output.say(&found, output::check)
        }
        Act::Findings(Findings::List { all }) => findings(dir, *all, output).await,
        Act::Findings(Findings::Show { id }) => {
            let found = admin::run(dir, Command::FindingShow { id: id.clone() }).await?;
            output.say(&found, output::finding)
        }
        Act::Findings(Findings::Confirm(said)) => say(dir, said, FindingAct::Confirm, output).await,
        Act::Findings(Findings::Lift(said)) => say(dir, said, FindingAct::Lift, output).await,
        // One JSON document is one look.
        Act::Top { once } if *once || cli.json => {
            let words = if cli.json { String::new() } else { terminal::page_once(dir).await? };
            let value = if cli.json { terminal::once(dir).await? } else { Value::Null };
            output.say(&value, |_| words)
        }
        Act::Top { .. } => terminal::run(dir).await,
        Act::Ledger(Ledger::Verify { checkpoint }) => {
            let checkpoints = checkpoint.iter().map(|f| read(f, CHECKPOINT_BYTES_MAX)).collect::<Result<_, _>>()?;
            let found = admin::run(dir, Command::LedgerVerify { checkpoints }).await?;
            output.say(&found, |v| {
                format!("the ledger is good: {} entries, root {}\n账本完好", v["size"], text(v, "root"))
            })
        }
    }
}

async fn init(dir: &Path, args: &Initial, output: &Output) -> Result<(), Failure> {
    let (clock, entropy) = (SystemClock::new(), OsEntropy::new());
    let made = folder::init(dir, &args.root, &args.domain, &args.address, &clock, &entropy).await?;
    let json = json!({
        "id": made.gateway, "domain": made.domain, "root": made.root,
        "dir": dir.display().to_string(), "root_dir": args.root.display().to_string(),
    });
    output.say(&json, |_| {
        let (dir, root) = (dir.display(), args.root.display());
        format!(
            "made gateway {} of {}\nroot {} ({})\n已建立网关\n\nNext 下一步:\n  keep {root} off this machine when it is not \
             needed: who has it names agencies and officers\n  lingqu-gateway --dir {dir} agency add CODE --name 名称 \
             --region 4403:city --root {root}\n  lingqu-gateway --dir {dir} serve",
            made.gateway,
            made.domain,
            made.root,
            if made.root_was_there { "it was there" } else { "new" },
        )
    })
}

async fn import(dir: &Path, file: &Path, root: &Path, output: &Output) -> Result<(), Failure> {
    let mut added = Vec::new();
    for (line, envelope) in roots::agencies(dir, file, root)? {
        let done = admin::run(dir, Command::AgencyAdd { envelope }).await;
        let done = done.map_err(|failure| Failure {
            text: format!("{}, line {line}: {}", file.display(), failure.text),
            next: format!(
                "{} (the {} lines before it were taken; a line may be imported again)",
                failure.next,
                added.len()
            ),
            ..failure
        })?;
        added.push(done);
    }
    output.say(&Value::Array(added), |v| format!("added {} agencies\n已登记部门", v.as_array().map_or(0, Vec::len)))
}

/// Every page of a list, whose records stand in `field`.
async fn list(dir: &Path, field: &str, page: impl Fn(String) -> Command) -> Result<Value, Failure> {
    let mut all = Vec::new();
    let mut after = String::new();
    loop {
        let mut page = admin::run(dir, page(after)).await?;
        if let Some(Value::Array(records)) = page.get_mut(field).map(Value::take) {
            all.extend(records);
        }
        after = text(&page, "next");
        if after.is_empty() {
            break;
        }
    }
    Ok(Value::Array(all))
}

/// Findings, the open ones first; on the terminal those that ended are left out unless they are asked for.
async fn findings(dir: &Path, all: bool, output: &Output) -> Result<(), Failure> {
    let mut found = Vec::new();
    let mut after = String::new();
    let mut observations = Value::Null;
    loop {
        let mut page = admin::run(dir, Command::FindingsList { after }).await?;
        if let Some(Value::Array(findings)) = page.get_mut("findings").map(Value::take) {
            found.extend(findings);
        }
        observations = page.get_mut("observations").map(Value::take).unwrap_or(observations);
        after = text(&page, "next");
        if after.is_empty() {
            break;
        }
    }
    found.retain(|finding| all || matches!(finding["status"].as_str(), Some("open" | "confirmed")));
    found.sort_by_key(|finding| (text(finding, "status") != "open", std::cmp::Reverse(text(finding, "last_at"))));
    output.say(&Value::Array(found), output::findings)?;
    let dropped = observations["dropped"].as_u64().unwrap_or(0);
    if dropped > 0 {
        output.hint(&format!(
            "{dropped} observations were dropped, the last at {}: findings may be missing\n有观测记录被丢弃，线索可能不完整",
            text(&observations, "dropped_at")
        ));
    }
    Ok(())
}

async fn say(dir: &Path, said: &Said, act: FindingAct, output: &Output) -> Result<(), Failure> {
    let command = Command::FindingSay { id: said.id.clone(), act, reason: said.reason.clone() };
    let done = admin::run(dir, command).await?;
    output.say(&done, |v| match act {
        FindingAct::Confirm => format!("confirmed {}\n已确认", text(v, "id")),
        FindingAct::Lift => format!("lifted {}; what it cut goes on\n已解除", text(v, "id")),
    })
}

fn selected(selection: &Selection) -> (String, String) {
    let of = &selection.what;
    let selector = match (&of.agency, &of.agent, &of.entry, &of.grant, &of.list) {
        (Some(code), ..) => format!("agency:{code}"),
        (_, Some(agent), ..) => format!("agent:{agent}"),
        (_, _, Some(entry), ..) => format!("entry:{entry}"),
        (.., Some(grant), _) => format!("grant:{grant}"),
        (.., Some(list)) => format!("list:{list}"),
        // The arguments take exactly one, so this is --all.
        _ => "all".into(),
    };
    (selector, selection.reason.clone())
}

/// A field's text; empty where there is none.
fn text(value: &Value, field: &str) -> String {
    value.get(field).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn read(path: &Path, bytes_max: u64) -> Result<String, Failure> {
    let failure = |e: &dyn std::fmt::Display| {
        Failure::usage(format!("reading {}: {e}", path.display()), "name a file that can be read")
    };
    let bytes = os::read_bounded(path, bytes_max).map_err(|e| failure(&e))?;
    String::from_utf8(bytes).map_err(|e| failure(&e))
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    os::write_atomic(path, bytes)
        .map_err(|e| Failure::ours(format!("writing {}: {e}", path.display()), "make room, then do it again"))
}
