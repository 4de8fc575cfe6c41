//! Why a request is refused, in the words of programs, of people, and of people who read Chinese; and what to do next.

use super::health::ClosedWhy;
use chrono::NaiveDate;
use lingqu_protocol::agency::AgentName;
use lingqu_protocol::close::CloseCode;
use lingqu_protocol::entry::{ItemType, SharingMethod};
use lingqu_protocol::host::Timestamp;
use lingqu_protocol::ids::{GrantId, ListId};
use lingqu_protocol::scope::Transform;
use lingqu_protocol::wire::Fault;
use std::net::IpAddr;

/// Why the gate refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denied {
    /// No such agent joined, or its agency is not known.
    UnknownAgent,
    /// The agent's certificate has expired: under an approval it renews, and does nothing else.
    CertificateExpired,
    /// The agent was blocked.
    Blocked {
        /// Why.
        reason: String,
    },
    /// A stop is in force.
    Stopped {
        /// Why.
        reason: String,
        /// Since when.
        since: Timestamp,
    },
    /// No such entry exists for this peer.
    EntryNotFound,
    /// The entry is another agency's.
    NotProvider,
    /// The entry is not published.
    NotPublished,
    /// 不予共享.
    NotShared,
    /// No such grant exists for this peer.
    GrantNotFound,
    /// The peer's agency has no grant for the entry.
    NoGrant,
    /// No published list names the peer's agency for the entry.
    NoEntitlement,
    /// The published list that named it was revoked.
    ListRevoked {
        /// Which.
        list: ListId,
        /// Why.
        reason: String,
        /// Since when.
        since: Timestamp,
    },
    /// What a subscription goes on from is not there any more, or is another slice.
    StartAnew {
        /// Why.
        why: &'static str,
    },
    /// The entry was named and several grants are in force.
    SeveralGrants {
        /// Which.
        grants: Vec<GrantId>,
    },
    /// 暂停.
    Suspended {
        /// Which grant.
        grant: GrantId,
        /// Why.
        reason: String,
        /// Since when.
        since: Timestamp,
    },
    /// 终止.
    Terminated {
        /// Which grant.
        grant: GrantId,
        /// Why.
        reason: String,
        /// Since when.
        since: Timestamp,
    },
    /// The period has not begun.
    NotYet {
        /// Its first day.
        from: NaiveDate,
    },
    /// The period is over.
    PeriodEnded {
        /// Its last day.
        until: NaiveDate,
    },
    /// By an agent of the requester that was not approved.
    Agent {
        /// Its name.
        asked: AgentName,
    },
    /// From a network that was not approved.
    Network {
        /// The address seen.
        seen: IpAddr,
    },
    /// By a method that was not approved.
    Method {
        /// The method.
        asked: SharingMethod,
    },
    /// For a purpose that was not approved.
    Purpose {
        /// The purpose.
        asked: String,
        /// Those that were approved.
        allowed: Vec<String>,
    },
    /// The grant has several purposes and none was named.
    PurposeNeeded {
        /// Those that were approved.
        allowed: Vec<String>,
    },
    /// Columns outside the grant.
    Columns {
        /// Which.
        outside: Vec<String>,
        /// Those that were granted.
        granted: Vec<String>,
    },
    /// A column was named twice.
    ColumnTwice {
        /// Which.
        column: String,
    },
    /// A granted column that the entry no longer has.
    ColumnGone {
        /// Which.
        column: String,
    },
    /// A column that cannot be masked or pseudonymised as the grant says: the entry gave it another type since.
    TransformUnfit {
        /// Which.
        column: String,
        /// What was to happen to it.
        transform: Transform,
        /// Its type now.
        item_type: ItemType,
    },
    /// A predicate over columns outside the grant.
    PredicateColumns {
        /// Which.
        outside: Vec<String>,
    },
    /// A predicate that does not fit the entry.
    BadPredicate {
        /// Why.
        why: String,
    },
    /// Columns, rows or a region of an entry of files.
    NoColumnsInFiles,
    /// A region of an entry that has no region column.
    NoRegion,
    /// Records of an entry that has no key.
    NoKey,
    /// The grant's volume is used up.
    Volume {
        /// Its limit.
        bytes_max: u64,
    },
    /// The day's requests under the grant are used up.
    Requests {
        /// Their limit.
        per_day_max: u64,
    },
    /// The gateway gives no permits now.
    Closed(ClosedWhy),
}

impl Denied {
    /// The close code.
    pub const fn code(&self) -> CloseCode {
        match self {
            Self::Blocked { .. }
            | Self::Stopped { .. }
            | Self::Suspended { .. }
            | Self::Terminated { .. }
            | Self::ListRevoked { .. } => CloseCode::Suspended,
            Self::PeriodEnded { .. } | Self::CertificateExpired => CloseCode::Expired,
            Self::Volume { .. } | Self::Requests { .. } => CloseCode::OverLimit,
            Self::Closed(ClosedWhy::Draining) => CloseCode::Draining,
            Self::Closed(_) => CloseCode::Closed,
            _ => CloseCode::Denied,
        }
    }

    /// A stable word for programs.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::UnknownAgent => "unknown_agent",
            Self::CertificateExpired => "certificate_expired",
            Self::Blocked { .. } => "agent_blocked",
            Self::Stopped { .. } => "stopped",
            Self::EntryNotFound => "entry_not_found",
            Self::NotProvider => "not_provider",
            Self::NotPublished => "entry_not_published",
            Self::NotShared => "not_shared",
            Self::GrantNotFound => "grant_not_found",
            Self::NoGrant => "no_grant",
            Self::NoEntitlement => "no_entitlement",
            Self::ListRevoked { .. } => "list_revoked",
            Self::StartAnew { .. } => "start_anew",
            Self::SeveralGrants { .. } => "several_grants",
            Self::Suspended { .. } => "grant_suspended",
            Self::Terminated { .. } => "grant_terminated",
            Self::NotYet { .. } => "period_not_begun",
            Self::PeriodEnded { .. } => "period_ended",
            Self::Agent { .. } => "agent_outside_scope",
            Self::Network { .. } => "network_outside_scope",
            Self::Method { .. } => "method_outside_scope",
            Self::Purpose { .. } => "purpose_outside_scope",
            Self::PurposeNeeded { .. } => "purpose_needed",
            Self::Columns { .. } => "columns_outside_scope",
            Self::ColumnTwice { .. } => "column_twice",
            Self::ColumnGone { .. } => "column_gone",
            Self::TransformUnfit { .. } => "transform_unfit",
            Self::PredicateColumns { .. } => "predicate_outside_scope",
            Self::BadPredicate { .. } => "bad_predicate",
            Self::NoColumnsInFiles => "no_columns_in_files",
            Self::NoRegion => "no_region_column",
            Self::NoKey => "no_key",
            Self::Volume { .. } => "volume_used_up",
            Self::Requests { .. } => "requests_used_up",
            Self::Closed(why) => why.word(),
        }
    }

    /// What the peer is told.
    pub fn fault(&self) -> Fault {
        let (text, text_zh) = self.text();
        let (next, next_zh) = self.next();
        Fault {
            code: self.code().code(),
            word: self.word().to_owned(),
            text,
            text_zh,
            next: next.to_owned(),
            next_zh: next_zh.to_owned(),
        }
    }

    fn text(&self) -> (String, String) {
        match self {
            Self::UnknownAgent => ("this agent is not known here".into(), "本网关不认识该代理".into()),
            Self::CertificateExpired => (
                "this agent's certificate has expired: it may renew it now, and nothing else".into(),
                "该代理的证书已过期：目前只能办理续期".into(),
            ),
            Self::Blocked { reason } => {
                (format!("this agent is blocked: {reason}"), format!("该代理已被阻断：{reason}"))
            }
            Self::Stopped { reason, since } => (
                format!("the exchange was stopped at {since}: {reason}"),
                format!("共享已于 {since} 被临时阻断：{reason}"),
            ),
            Self::EntryNotFound => ("there is no such entry".into(), "没有该目录条目".into()),
            Self::NotProvider => {
                ("only the entry's provider may do this".into(), "只有该条目的提供部门可以执行此操作".into())
            }
            Self::NotPublished => ("the entry is not published".into(), "该目录条目未发布".into()),
            Self::NotShared => ("the entry is not shared (不予共享)".into(), "该目录条目属于不予共享".into()),
            Self::GrantNotFound => ("there is no such grant".into(), "没有该共享权限".into()),
            Self::NoGrant => ("your agency has no grant for this entry".into(), "贵部门没有该条目的共享权限".into()),
            Self::NoEntitlement => (
                "no published list names your department for this entry".into(),
                "已公布的回流清单未列明贵部门可接收该条目".into(),
            ),
            Self::ListRevoked { list, reason, since } => (
                format!("{list} was revoked at {since}: {reason}"),
                format!("回流清单 {list} 已于 {since} 撤销：{reason}"),
            ),
            Self::StartAnew { why } => (
                format!("this subscription cannot go on from where it is: {why}"),
                "无法从当前位置继续回流：所需版本已不保留，或本部门的区划、数据项已变更".into(),
            ),
            Self::SeveralGrants { grants } => {
                let list = grants.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                (
                    format!("several grants are in force for this entry: {list}"),
                    format!("该条目有多个有效的共享权限：{list}"),
                )
            }
            Self::Suspended { grant, reason, since } => (
                format!("{grant} was suspended at {since}: {reason}"),
                format!("共享权限 {grant} 已于 {since} 暂停：{reason}"),
            ),
            Self::Terminated { grant, reason, since } => (
                format!("{grant} was terminated at {since}: {reason}"),
                format!("共享权限 {grant} 已于 {since} 终止：{reason}"),
            ),
            Self::NotYet { from } => (format!("the grant begins on {from}"), format!("共享权限自 {from} 起生效")),
            Self::PeriodEnded { until } => {
                (format!("the grant ended on {until}"), format!("共享权限已于 {until} 到期"))
            }
            Self::Agent { asked } => {
                (format!("the grant does not cover this agent ({asked})"), format!("共享范围不包含该代理（{asked}）"))
            }
            Self::Network { seen } => {
                (format!("the grant does not cover your network ({seen})"), format!("共享范围不包含调用网络（{seen}）"))
            }
            Self::Method { asked } => (
                format!("the grant does not cover this sharing method ({asked})"),
                format!("共享范围不包含该共享方式（{asked}）"),
            ),
            Self::Purpose { asked, allowed } => (
                format!("the grant does not cover the purpose {asked}; it covers {}", allowed.join(", ")),
                format!("共享范围不包含使用用途“{asked}”，已批准的用途：{}", allowed.join("、")),
            ),
            Self::PurposeNeeded { allowed } => (
                format!("the grant has several purposes, and none was named: {}", allowed.join(", ")),
                format!("该共享权限有多个使用用途，请指明其一：{}", allowed.join("、")),
            ),
            Self::Columns { outside, granted } => (
                format!("outside the grant: {}; granted: {}", outside.join(", "), granted.join(", ")),
                format!("超出共享范围的数据项：{}；已批准：{}", outside.join("、"), granted.join("、")),
            ),
            Self::ColumnTwice { column } => {
                (format!("column {column} is asked for twice"), format!("数据项 {column} 重复"))
            }
            Self::ColumnGone { column } => {
                (format!("the entry no longer has the column {column}"), format!("目录条目已无数据项 {column}"))
            }
            Self::TransformUnfit { column, transform, item_type } => (
                format!("the grant gives {column} as {transform}, and the entry has made it {item_type} since"),
                format!("共享权限规定数据项 {column} 按 {transform} 处理，而目录条目已将其改为 {item_type}"),
            ),
            Self::PredicateColumns { outside } => (
                format!("a condition on columns that were not granted in clear: {}", outside.join(", ")),
                format!("查询条件使用了未获明文批准的数据项：{}", outside.join("、")),
            ),
            Self::BadPredicate { why } => {
                (format!("the condition does not fit the entry: {why}"), format!("查询条件有误：{why}"))
            }
            Self::NoColumnsInFiles => {
                ("an entry of files has no columns, rows or regions".into(), "文件类条目没有数据项、行或区划".into())
            }
            Self::NoRegion => ("the entry has no region column".into(), "该条目没有行政区划数据项".into()),
            Self::NoKey => (
                "the entry has no key: its records cannot be asked for one by one".into(),
                "该条目没有主键数据项，不能逐条查询".into(),
            ),
            Self::Volume { bytes_max } => (
                format!("the grant's volume of {bytes_max} bytes is used up"),
                format!("共享权限的数据量上限（{bytes_max} 字节）已用尽"),
            ),
            Self::Requests { per_day_max } => (
                format!("the grant's {per_day_max} requests of today are used up"),
                format!("共享权限今日的请求次数（{per_day_max} 次）已用尽"),
            ),
            Self::Closed(why) => {
                (format!("the gateway gives no permits now: {}", why.word()), format!("网关暂不放行：{}", why.word()))
            }
        }
    }

    /// What to do next, in English and Chinese.
    pub const fn next(&self) -> (&'static str, &'static str) {
        match self {
            Self::UnknownAgent => (
                "ask the operator for an invitation, then: lingqu join INVITATION",
                "请向系统管理员索取邀请后执行 lingqu join",
            ),
            Self::CertificateExpired => ("renew first: lingqu renew", "请先执行 lingqu renew 续期"),
            Self::Blocked { .. } | Self::Stopped { .. } => ("ask the gateway's operator", "请联系网关系统管理员"),
            Self::EntryNotFound => ("see: lingqu catalogue list", "请查看：lingqu catalogue list"),
            Self::NotProvider | Self::NotShared => ("ask the entry's provider", "请联系提供部门"),
            Self::NotPublished => {
                ("wait for the authority's review, see: lingqu catalogue show ID", "请等待主管部门审核")
            }
            Self::GrantNotFound => ("see: lingqu grant list", "请查看：lingqu grant list"),
            Self::NoGrant => ("apply for it: lingqu apply FILE", "请提出共享申请：lingqu apply FILE"),
            Self::NoEntitlement | Self::ListRevoked { .. } => (
                "see: lingqu backflow-list show; ask the authority for data sharing",
                "请查看 lingqu backflow-list show，并联系政务数据共享主管部门",
            ),
            Self::StartAnew { .. } => {
                ("begin anew: what you have is replaced by the state", "请重新开始：已有数据将被当前全量替换")
            }
            Self::SeveralGrants { .. } => ("name one of them instead of the entry", "请指明其中一个共享权限"),
            Self::Suspended { .. } => {
                ("settle it with the provider, who can reinstate the grant", "请与提供部门沟通整改，由其恢复")
            }
            Self::Terminated { .. } | Self::PeriodEnded { .. } => {
                ("apply again: lingqu apply FILE", "请重新提出共享申请")
            }
            Self::NotYet { .. } => ("ask again from that day on", "请自该日起再试"),
            Self::Agent { .. }
            | Self::Network { .. }
            | Self::Method { .. }
            | Self::Purpose { .. }
            | Self::ColumnGone { .. } => {
                ("ask within the grant (lingqu grant show ID), or apply for more", "请在共享范围内请求，或另行申请")
            }
            Self::Columns { .. } | Self::PredicateColumns { .. } => {
                ("ask within the grant (lingqu grant show ID), or apply for more", "请在共享范围内请求，或另行申请")
            }
            Self::PurposeNeeded { .. } => ("name one with --purpose", "请用 --purpose 指明"),
            Self::ColumnTwice { .. } | Self::BadPredicate { .. } => ("correct the request", "请更正请求"),
            Self::NoColumnsInFiles => {
                ("leave --columns, --where and --region out", "请去掉 --columns、--where 和 --region")
            }
            Self::NoRegion => ("use --where instead", "请改用 --where"),
            Self::NoKey => ("pull what the grant gives instead: lingqu pull", "请改用 lingqu pull 获取"),
            Self::TransformUnfit { .. } => {
                ("leave the column out, or apply again: lingqu apply FILE", "请去掉该数据项，或重新提出共享申请")
            }
            Self::Requests { .. } => (
                "ask again tomorrow (days are China Standard Time), or ask the provider for more",
                "请明日再试（按北京时间），或请提供部门变更共享权限",
            ),
            Self::Volume { .. } => ("ask the provider to amend the grant", "请提供部门变更共享权限"),
            Self::Closed(_) => ("try again later; the operator sees why in the gateway's log", "请稍后再试"),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Every refusal, with what a peer's streams end with and what of its own it has to say.
    fn all() -> Vec<(Denied, CloseCode, &'static [&'static str])> {
        let (grant, list, since) = (GrantId::from_bits(7), ListId::from_bits(8), Timestamp(1_798_732_800_000));
        let day = NaiveDate::from_ymd_opt(2027, 3, 4).unwrap();
        let reason = || "reason-1".to_owned();
        let names = || vec!["c1".to_owned(), "c2".to_owned()];
        let denied = CloseCode::Denied;
        let cut: &[&str] = &["reason-1", "2026-12-31T16:00:00"];
        let mut all = vec![
            (Denied::UnknownAgent, denied, &[] as &[&str]),
            (Denied::CertificateExpired, CloseCode::Expired, &[]),
            (Denied::Blocked { reason: reason() }, CloseCode::Suspended, &["reason-1"]),
            (Denied::Stopped { reason: reason(), since }, CloseCode::Suspended, cut),
            (Denied::EntryNotFound, denied, &[]),
            (Denied::NotProvider, denied, &[]),
            (Denied::NotPublished, denied, &[]),
            (Denied::NotShared, denied, &[]),
            (Denied::GrantNotFound, denied, &[]),
            (Denied::NoGrant, denied, &[]),
            (Denied::NoEntitlement, denied, &[]),
            (Denied::ListRevoked { list, reason: reason(), since }, CloseCode::Suspended, cut),
            (Denied::StartAnew { why: "gone" }, denied, &[]),
            (Denied::SeveralGrants { grants: vec![grant] }, denied, &["grant-"]),
            (Denied::Suspended { grant, reason: reason(), since }, CloseCode::Suspended, cut),
            (Denied::Terminated { grant, reason: reason(), since }, CloseCode::Suspended, cut),
            (Denied::NotYet { from: day }, denied, &["2027-03-04"]),
            (Denied::PeriodEnded { until: day }, CloseCode::Expired, &["2027-03-04"]),
            (Denied::Agent { asked: "night".parse().unwrap() }, denied, &["night"]),
            (Denied::Network { seen: "192.0.2.7".parse().unwrap() }, denied, &["192.0.2.7"]),
            (Denied::Method { asked: SharingMethod::ServiceInterface }, denied, &["service_interface"]),
            (Denied::Purpose { asked: "p0".into(), allowed: vec!["p1".into()] }, denied, &["p0", "p1"]),
            (Denied::PurposeNeeded { allowed: vec!["p1".into()] }, denied, &["p1"]),
            (Denied::Columns { outside: names(), granted: vec!["c3".into()] }, denied, &["c1", "c2", "c3"]),
            (Denied::ColumnTwice { column: "c1".into() }, denied, &["c1"]),
            (Denied::ColumnGone { column: "c1".into() }, denied, &["c1"]),
            (
                Denied::TransformUnfit {
                    column: "c1".into(),
                    transform: Transform::Pseudonym,
                    item_type: ItemType::Date,
                },
                denied,
                &["c1", "pseudonym", "date"],
            ),
            (Denied::PredicateColumns { outside: names() }, denied, &["c1", "c2"]),
            (Denied::BadPredicate { why: "why-1".into() }, denied, &["why-1"]),
            (Denied::NoColumnsInFiles, denied, &[]),
            (Denied::NoRegion, denied, &[]),
            (Denied::NoKey, denied, &[]),
            (Denied::Volume { bytes_max: 77 }, CloseCode::OverLimit, &["77"]),
            (Denied::Requests { per_day_max: 78 }, CloseCode::OverLimit, &["78"]),
        ];
        all.extend(ClosedWhy::ALL.map(|why| {
            let code = if why == ClosedWhy::Draining { CloseCode::Draining } else { CloseCode::Closed };
            (Denied::Closed(why), code, &[] as &[&str])
        }));
        all
    }

    #[test]
    fn every_refusal_has_its_code_its_word_and_what_to_do_next_in_both_languages() {
        let (mut words, mut texts, mut texts_zh) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for (denied, code, parts) in all() {
            let fault = denied.fault();
            assert_eq!((fault.code, fault.word.as_str()), (code.code(), denied.word()));
            for part in parts {
                assert!(fault.text.contains(part) && fault.text_zh.contains(part), "{part}: {fault:?}");
            }
            assert!(fault.text.len() > 9 && fault.next.len() > 9, "{fault:?}");
            assert!(!fault.text_zh.is_ascii() && !fault.next_zh.is_ascii(), "{fault:?}");
            assert!(words.insert(fault.word), "one word for each");
            assert!(texts.insert(fault.text) && texts_zh.insert(fault.text_zh), "one text for each: {denied:?}");
        }
        let is_word = |word: &String| word.len() > 4 && word.bytes().all(|c| c.is_ascii_lowercase() || c == b'_');
        assert!(words.iter().all(is_word), "{words:?}");
    }

    #[test]
    fn why_the_gate_is_closed_says_what_to_do() {
        let means: BTreeSet<_> = ClosedWhy::ALL.iter().map(|why| why.means()).collect();
        assert_eq!(means.len(), ClosedWhy::ALL.len());
        assert!(means.iter().all(|(en, zh)| en.len() > 9 && !zh.is_ascii()), "{means:?}");
    }
}
