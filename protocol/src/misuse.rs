//! The words of misuse, which documents, the ledger and both programs share: which rules there are, what each may lead
//! to, and the article of the regulation (政务数据共享条例) that it watches over.
//!
//! What a rule finds is a 疑似问题线索, a lead to be looked at. It is never called a violation: that is for people to say.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

macro_rules! rules {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $article:literal, $title:literal, $zh:literal;)*) => {
        /// A rule.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Rule { $($(#[$doc])* $name,)* }

        impl Rule {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Its stable code.
            pub const fn code(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }

            /// The articles that it watches over.
            pub const fn article(self) -> &'static str {
                match self { $(Self::$name => $article,)* }
            }

            /// What it looks for.
            pub const fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* }
            }

            /// What it looks for, in Chinese.
            pub const fn title_zh(self) -> &'static str {
                match self { $(Self::$name => $zh,)* }
            }
        }
    };
}

rules! {
    /// One request outside the scope, over and over: mostly a program that errs.
    ScopeRepeated = "scope_repeated", "25, 40(2)", "the same request outside scope, again and again", "反复提出超出共享范围的请求";
    /// Many different requests outside one scope: somebody tries what opens.
    ScopeProbing = "scope_probing", "25, 40(2)", "many different requests outside scope", "多种超出共享范围的试探请求";
    /// Requests for purposes that were not approved.
    PurposeNotApproved = "purpose_not_approved", "25, 40(2)", "requests for purposes that were not approved", "以未获批准的用途请求数据";
    /// Requests under a grant whose time is over.
    UseAfterExpiry = "use_after_expiry", "25, 27, 40(2)", "requests after the grant ended", "共享权限到期或终止后仍请求数据";
    /// More, or faster, than was approved.
    OverApproved = "over_approved", "25, 40(2)", "volume or rate above what was approved", "数据量或频率超出批准范围";
    /// Far more than an agent ever took, or at an hour at which it never did.
    Departure = "departure", "34, 35", "a sudden departure from the agent's own history", "与自身历史用量明显不符";
    /// One identity in two networks at the same time.
    TwoPlaces = "two_places", "34, 35, 40(6)", "one identity active in two places at once", "同一身份同时在两处网络活动";
    /// A sweep: very many different small questions.
    Enumeration = "enumeration", "25, 35", "a sweep over keys or regions", "按主键或区划逐一遍历";
    /// Grants of one requester that together join what none gives alone.
    Joining = "joining", "25", "grants that together join personal data", "多项共享权限可关联出个人信息";
    /// A version that flows back and is not durable at its receiver in time.
    BackflowLate = "backflow_late", "24, 39(5)", "a version that flows back was not received in time", "回流数据未及时落地";
}

/// What may follow from a suspicion, the mildest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// It is written down.
    Note,
    /// Both sides and the authority see it.
    Warn,
    /// 临时阻断 of the grant.
    CutGrant,
    /// 临时阻断 of the agent.
    CutAgent,
    /// 临时阻断 of the agency with all its agents.
    CutAgency,
}

impl Action {
    /// All of them, the mildest first.
    pub const ALL: &'static [Self] = &[Self::Note, Self::Warn, Self::CutGrant, Self::CutAgent, Self::CutAgency];

    /// Its word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Warn => "warn",
            Self::CutGrant => "cut_grant",
            Self::CutAgent => "cut_agent",
            Self::CutAgency => "cut_agency",
        }
    }

    /// Whether it takes a permission away.
    pub const fn cuts(self) -> bool {
        matches!(self, Self::CutGrant | Self::CutAgent | Self::CutAgency)
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// A text that names none of a fixed list.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected one of {known}")]
pub struct UnknownWord {
    known: String,
}

impl FromStr for Rule {
    type Err = UnknownWord;
    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        let known = || UnknownWord { known: Self::ALL.iter().map(|r| r.code()).collect::<Vec<_>>().join(", ") };
        Self::ALL.iter().find(|rule| rule.code() == text).copied().ok_or_else(known)
    }
}

impl FromStr for Action {
    type Err = UnknownWord;
    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        let known = || UnknownWord { known: Self::ALL.iter().map(|a| a.word()).collect::<Vec<_>>().join(", ") };
        Self::ALL.iter().find(|action| action.word() == text).copied().ok_or_else(known)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_the_same_in_json_in_text_and_on_the_command_line() {
        for rule in Rule::ALL {
            assert_eq!(serde_json::to_string(rule).unwrap(), format!("\"{rule}\""));
            assert_eq!(rule.code().parse(), Ok(*rule));
            assert!(rule.code().len() <= crate::leaf::WHAT_CHARS_MAX && !rule.article().is_empty());
        }
        for action in Action::ALL {
            assert_eq!(serde_json::to_string(action).unwrap(), format!("\"{action}\""));
            assert_eq!(action.word().parse(), Ok(*action));
        }
        assert!("cut".parse::<Action>().is_err() && "Departure".parse::<Rule>().is_err());
    }

    #[test]
    fn actions_are_ordered_by_what_they_take() {
        assert!(Action::ALL.is_sorted() && Action::Warn < Action::CutGrant && Action::CutAgent < Action::CutAgency);
        assert!(Action::ALL.iter().all(|a| a.cuts() == (*a > Action::Warn)));
    }
}
