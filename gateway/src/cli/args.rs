//! The command line.

use clap::{Args, Parser, Subcommand};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// 灵渠网关 The gateway for data between government agencies.
#[derive(Debug, Parser)]
#[command(
    name = "lingqu-gateway",
    version,
    about = "灵渠网关 Lingqu gateway: exchanges data between government agencies, exactly as far as it was approved",
    after_help = "A gateway from nothing to its first agent 从零开始:
  lingqu-gateway --dir gw init --root root --domain lingqu.example --address 10.1.2.3:4433
  lingqu-gateway --dir gw agency add 91350100M000100Y43 --name 市场监督管理局 --region 4403:city --root root
  lingqu-gateway --dir gw officer add officer.request --root root --out officer.cert
  lingqu-gateway --dir gw invite 91350100M000100Y43 --agent main
  lingqu-gateway --dir gw serve

A machine was off for too long 证书过期:
  lingqu-gateway --dir gw renewal approve 91350100M000100Y43/main

Something is wrong 出现问题:
  lingqu-gateway --dir gw stop --agency 91350100M000100Y43 --reason 异常调用
  lingqu-gateway --dir gw check
  lingqu-gateway --dir gw findings list
  lingqu-gateway --dir gw ledger verify

Exit codes 退出码: 0 done, 1 our fault, 2 usage, 3 denied or not found, 4 suspended or expired, 5 integrity,
6 unreachable, 7 the data is bad. With --json, standard output holds one JSON document and nothing else; an error is one
line of JSON on standard error."
)]
pub struct Cli {
    /// The gateway's folder 网关目录
    #[arg(long, global = true, value_name = "DIR", env = "LINGQU_GATEWAY_DIR", default_value = ".")]
    pub dir: PathBuf,
    /// Print one JSON document
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do
    #[command(subcommand)]
    pub(super) act: Act,
}

impl Cli {
    /// Whether the process will run for long.
    pub const fn serves(&self) -> bool {
        matches!(self.act, Act::Serve { .. })
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum Act {
    /// Make a gateway, and its root where there is none 建立网关
    Init(Initial),
    /// Serve until told to end 运行网关
    #[command(
        after_help = "Prints one line when it is ready: ready quic=ADDRESS http=ADDRESS. SIGTERM drains: no new permits, and
what runs may end within a minute; what does not is parked and resumes later.

  lingqu-gateway --dir gw serve"
    )]
    Serve {
        /// UDP address of the QUIC endpoint, over the configuration's
        #[arg(long, value_name = "A")]
        listen: Option<SocketAddr>,
        /// TCP address of /metrics, /healthz and /readyz, over the configuration's
        #[arg(long, value_name = "A")]
        http: Option<SocketAddr>,
    },
    /// Agencies that take part 部门
    #[command(subcommand)]
    Agency(Agency),
    /// Officers who sign for agencies 签署人员
    #[command(subcommand)]
    Officer(Officer),
    /// Invite an agent of an agency; prints the invitation 邀请代理
    #[command(
        after_help = "The invitation is one line and a secret. Its agent joins with `lingqu join INVITATION`, once.
An agent that lost its key is invited again under the same name; one that was off for longer than its certificate
lives keeps its profile: see `renewal approve`.

  lingqu-gateway --dir gw invite 91350100M000100Y43 --agent main --ttl 24h"
    )]
    Invite {
        /// The agency's credit code 统一社会信用代码
        code: String,
        /// The agent's name within the agency: a-z, 0-9 and -
        #[arg(long, value_name = "NAME")]
        agent: String,
        /// How long it is open: 90m, 24h, 7d; at most 30d
        #[arg(long, value_name = "T", default_value = "24h")]
        ttl: Ttl,
    },
    /// Agents that joined 代理
    #[command(subcommand)]
    Agent(Agent),
    /// Let an agent renew with its expired certificate, once 批准过期证书续期
    #[command(subcommand)]
    Renewal(Renewal),
    /// A certificate for an agent that cannot reach the gateway, by files 离线签发
    #[command(after_help = "On the agent's machine: lingqu join INVITATION --request request.json
Here:                   lingqu-gateway --dir gw join request.json --out answer.json
Back there:             lingqu join INVITATION --certificate answer.json")]
    Join {
        /// The request's file
        request: PathBuf,
        /// Where to write the answer
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Stop at once: an agency, an agent, an entry, a grant or everything 临时阻断
    #[command(
        after_help = "What runs is cut before this returns. The reason goes into the ledger, behind a commitment.

  lingqu-gateway --dir gw stop --agency 91350100M000100Y43 --reason 异常调用
  lingqu-gateway --dir gw stop --all --reason 安全事件"
    )]
    Stop(Selection),
    /// Lift a stop 解除阻断
    Resume(Selection),
    /// See whether all that the root signed still stands, and what is stopped 检查
    Check,
    /// What the rules over misuse found 疑似问题线索
    #[command(subcommand)]
    Findings(Findings),
    /// Subscriptions of backflow, and what each lacks 回流订阅
    #[command(
        after_help = "A receiver that is dead or slow stands here with the versions that it lacks; nobody else waits for it.

  lingqu-gateway --dir gw subscriptions --behind"
    )]
    Subscriptions {
        /// Only those that lack a version 仅列出落后的订阅
        #[arg(long)]
        behind: bool,
    },
    /// Watch: throughput, what stands still and why, findings; and stop a row 实时视图
    #[command(
        after_help = "Pages: transfers, agencies, grants, findings (tab). Choose a row with the arrow keys; s stops it, after a reason
and a yes. What stands still comes first: held by reader, waits for memory, or nothing comes from the sender.
With --once it says how things stand and ends; for programs with --json.

  lingqu-gateway --dir gw top
  lingqu-gateway --dir gw top --once --json"
    )]
    Top {
        /// Say once how things stand, and end
        #[arg(long)]
        once: bool,
    },
    /// The audit ledger 账本
    #[command(subcommand)]
    Ledger(Ledger),
}

#[derive(Debug, Args)]
#[command(
    after_help = "The root signs which agencies and officers there are. Keep its folder off this machine when it is not needed.
Where ROOTDIR holds a root already, the new gateway is put under it.

  lingqu-gateway --dir /srv/lingqu init --root /media/root --domain data.sz.gov --address 10.1.2.3:4433"
)]
pub(super) struct Initial {
    /// The root's folder, outside the gateway's 根密钥目录
    #[arg(long, value_name = "ROOTDIR")]
    pub(super) root: PathBuf,
    /// The domain in agents' names and in gateway.DOMAIN
    #[arg(long, default_value = "lingqu.internal")]
    pub(super) domain: String,
    /// What agents dial
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:4433")]
    pub(super) address: String,
}

#[derive(Debug, Subcommand)]
pub(super) enum Agency {
    /// Name an agency
    #[command(
        after_help = "  lingqu-gateway --dir gw agency add 91350100M000100Y43 --name 市场监督管理局 --region 4403:city \\
    --duty 市场主体登记 --root root
  lingqu-gateway --dir gw agency add CODE --name 政务服务和数据管理局 --region 4403:city --authority --root root

An agency that is here already is not changed by this: see `agency change`."
    )]
    Add(AgencyAdd),
    /// Change what the root says of an agency that is here: only what is named changes
    #[command(
        after_help = "The root signs the whole statement anew, over the one that stands; the change has its entry in the ledger.

  lingqu-gateway --dir gw agency change 91350100M000100Y43 --name 市场监督管理局（知识产权局） --root root
  lingqu-gateway --dir gw agency change CODE --no-authority --root root"
    )]
    Change(AgencyChange),
    /// Show one agency
    Show {
        /// Credit code
        code: String,
    },
    /// Name many: CSV with the columns code, name, region, level, duties, parent, authority
    #[command(
        after_help = "The first line names the columns; duties are parted by ; and may be empty, as may parent; authority is true or
false. An agency stands after its parent. A line that was taken may be taken again; one that would change an agency
is refused (see `agency change`).

  code,name,region,level,duties,parent,authority
  91350100M000100Y43,市场监督管理局,4403,city,市场主体登记;执法,,false"
    )]
    Import {
        /// The file
        file: PathBuf,
        /// The root's folder
        #[arg(long, value_name = "ROOTDIR")]
        root: PathBuf,
    },
    /// List the agencies
    List,
}

#[derive(Debug, Subcommand)]
pub(super) enum Agent {
    /// List the agents, with the end of each one's certificate
    List,
}

#[derive(Debug, Subcommand)]
pub(super) enum Renewal {
    /// Approve it for one agent
    #[command(
        after_help = "For a machine that was off for longer than its certificate lives. Its agent then runs `lingqu renew` with the
profile that it has. Such a connection may renew and do nothing else, once, with the key that was certified last. Make sure
that the machine was in good hands meanwhile; where its key may have been copied, `stop --agent` it and invite anew.

  lingqu-gateway --dir gw renewal approve 91350100M000100Y43/main --ttl 24h"
    )]
    Approve {
        /// The agent
        #[arg(value_name = "CODE/NAME")]
        agent: String,
        /// How long it is open: 90m, 24h, 7d; at most 7d
        #[arg(long, value_name = "T", default_value = "24h")]
        ttl: Ttl,
    },
    /// List each agent's latest approval: open, used, withdrawn or expired
    List,
    /// Withdraw an approval that is open
    Withdraw {
        /// The agent
        #[arg(value_name = "CODE/NAME")]
        agent: String,
    },
}

#[derive(Debug, Args)]
pub(super) struct AgencyAdd {
    /// Credit code 统一社会信用代码
    pub(super) code: String,
    /// Name 名称
    #[arg(long)]
    pub(super) name: String,
    /// Region and its level: 4403:city (province, city, county, township, village)
    #[arg(long, value_name = "R:LEVEL")]
    pub(super) region: Region,
    /// A duty, as backflow lists name it; may be given again
    #[arg(long)]
    pub(super) duty: Vec<String>,
    /// Credit code of the agency above it
    #[arg(long, value_name = "CODE")]
    pub(super) parent: Option<String>,
    /// It is a 政务数据共享主管部门: it reviews the catalogue
    #[arg(long)]
    pub(super) authority: bool,
    /// The root's folder
    #[arg(long, value_name = "ROOTDIR")]
    pub(super) root: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct AgencyChange {
    /// Credit code 统一社会信用代码
    pub(super) code: String,
    #[command(flatten)]
    pub(super) what: AgencyChanges,
    /// The root's folder
    #[arg(long, value_name = "ROOTDIR")]
    pub(super) root: PathBuf,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub(super) struct AgencyChanges {
    /// Name 名称
    #[arg(long)]
    pub(super) name: Option<String>,
    /// Region and its level: 4403:city
    #[arg(long, value_name = "R:LEVEL")]
    pub(super) region: Option<Region>,
    /// All its duties; may be given again
    #[arg(long)]
    pub(super) duty: Vec<String>,
    /// It has no duties
    #[arg(long, conflicts_with = "duty")]
    pub(super) no_duty: bool,
    /// Credit code of the agency above it
    #[arg(long, value_name = "CODE")]
    pub(super) parent: Option<String>,
    /// No agency is above it
    #[arg(long, conflicts_with = "parent")]
    pub(super) no_parent: bool,
    /// It is a 政务数据共享主管部门
    #[arg(long)]
    pub(super) authority: bool,
    /// It is none any more
    #[arg(long, conflicts_with = "authority")]
    pub(super) no_authority: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum Officer {
    /// Certify the key that an officer made with `lingqu officer request`
    #[command(after_help = "Look at whose request it is first: what the root signs, everyone believes.

  lingqu-gateway --dir gw officer add officer.request --root root --out officer.cert")]
    Add {
        /// The officer's request
        request: PathBuf,
        /// The root's folder
        #[arg(long, value_name = "ROOTDIR")]
        root: PathBuf,
        /// Where to write the certificate that goes back to the officer
        #[arg(long, value_name = "CERT")]
        out: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum Findings {
    /// List them, the open ones first
    #[command(
        after_help = "A finding is a lead to be looked at, never a violation. What a rule cut without a standing order has to be
confirmed in time (config.toml, [misuse] confirm_within_hours), or it is lifted by itself.

  lingqu-gateway --dir gw findings list
  lingqu-gateway --dir gw findings list --all --json"
    )]
    List {
        /// Those that ended too
        #[arg(long)]
        all: bool,
    },
    /// Show one with its evidence
    Show {
        /// The finding
        id: String,
    },
    /// Say that it holds: what was cut stays cut 确认
    #[command(
        after_help = "From then on an office head of the provider or of the authority lifts it (lingqu findings lift, with a signature).

  lingqu-gateway --dir gw findings confirm finding-... --reason 已核实"
    )]
    Confirm(Said),
    /// Say that it does not hold: what was cut goes on at once 解除
    #[command(
        after_help = "The ledger keeps both, the finding and its lifting. For `quiet_hours` the same rule does not cut the same again.

  lingqu-gateway --dir gw findings lift finding-... --reason 误判"
    )]
    Lift(Said),
}

#[derive(Debug, Args)]
pub(super) struct Said {
    /// The finding
    pub(super) id: String,
    /// Why 原因
    #[arg(long, value_name = "WHY")]
    pub(super) reason: String,
}

#[derive(Debug, Subcommand)]
pub(super) enum Ledger {
    /// Walk the whole ledger and recompute every hash
    #[command(
        after_help = "The first thing that is wrong is named (exit 5). With checkpoints that agencies kept, a cut tail, an older backup
and a second history are found too.

  lingqu-gateway --dir gw ledger verify --checkpoint from-agency.txt"
    )]
    Verify {
        /// A signed checkpoint that another kept; may be given again
        #[arg(long, value_name = "FILE")]
        checkpoint: Vec<PathBuf>,
    },
}

#[derive(Debug, Args)]
pub(super) struct Selection {
    #[command(flatten)]
    pub(super) what: Selector,
    /// Why 原因
    #[arg(long, value_name = "WHY")]
    pub(super) reason: String,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(super) struct Selector {
    /// An agency with all its agents
    #[arg(long, value_name = "CODE")]
    pub(super) agency: Option<String>,
    /// One agent
    #[arg(long, value_name = "CODE/NAME")]
    pub(super) agent: Option<String>,
    /// An entry's data, by its id or its code
    #[arg(long, value_name = "ID")]
    pub(super) entry: Option<String>,
    /// One grant
    #[arg(long, value_name = "ID")]
    pub(super) grant: Option<String>,
    /// What flows back under one published list 回流清单
    #[arg(long, value_name = "ID")]
    pub(super) list: Option<String>,
    /// Everything
    #[arg(long)]
    pub(super) all: bool,
}

/// A region with its level beside it.
#[derive(Clone, Debug)]
pub(super) struct Region {
    pub(super) code: String,
    pub(super) level: String,
}

impl FromStr for Region {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (code, level) = text.split_once(':').ok_or("expected a code, a colon and its level, such as 4403:city")?;
        Ok(Self { code: code.into(), level: level.into() })
    }
}

/// A time in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ttl(pub(super) i64);

impl FromStr for Ttl {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is not a time such as 90m, 24h or 7d");
        let unit_ms = match text.chars().last() {
            Some('m') => 60 * 1000,
            Some('h') => 60 * 60 * 1000,
            Some('d') => 24 * 60 * 60 * 1000,
            _ => return Err(bad()),
        };
        let count = text.get(..text.len() - 1).and_then(|n| n.parse::<u32>().ok()).ok_or_else(bad)?;
        Ok(Self(i64::from(count) * unit_ms))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_change_of_an_agency_says_what_changes() {
        let parse = |line: &str| Cli::try_parse_from(line.split(' ')).is_ok();
        assert!(parse("lingqu-gateway agency change C --name n --no-authority --root r"));
        assert!(!parse("lingqu-gateway agency change C --root r"));
        assert!(!parse("lingqu-gateway agency change C --name n"));
        for both in ["--duty d --no-duty", "--parent p --no-parent", "--authority --no-authority"] {
            assert!(!parse(&format!("lingqu-gateway agency change C {both} --root r")), "{both}");
        }
    }

    #[test]
    fn times_have_a_unit() {
        assert_eq!("90m".parse(), Ok(Ttl(5_400_000)));
        assert_eq!("7d".parse(), Ok(Ttl(604_800_000)));
        for bad in ["", "7", "d", "-1d", "1w", "99999999999d", "时"] {
            assert!(bad.parse::<Ttl>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_stop_selects_one_thing_and_says_why() {
        let parse = |line: &str| Cli::try_parse_from(line.split(' ')).is_ok();
        assert!(parse("lingqu-gateway stop --all --reason x"));
        assert!(parse("lingqu-gateway resume --agent C/n --reason x --dir d --json"));
        assert!(!parse("lingqu-gateway stop --reason x"));
        assert!(!parse("lingqu-gateway stop --all"));
        assert!(!parse("lingqu-gateway stop --all --grant g --reason x"));
    }
}
