//! Standing orders: an office head of the authority or of a provider says beforehand which rules may cut, how far, and
//! until when (article 35). A rule's cut under one stands until a person lifts it; without one it has to be confirmed.

use super::agency::Agency;
use super::entry::follows;
use super::error::Refusal;
use super::fact::{Act, Fact};
use super::text;
use lingqu_protocol::agency::CreditCode;
use lingqu_protocol::digest::Digest;
use lingqu_protocol::documents::{Day, StandingOrderBody};
use lingqu_protocol::host::Timestamp;
use lingqu_protocol::ids::{DocumentId, OrderId};
use lingqu_protocol::misuse::{Action, Rule};
use lingqu_protocol::scope::midnight;

/// Days ahead that an order may reach: who gives it looks at it again once a year.
pub const ORDER_DAYS_MAX: i64 = 366;

/// A standing order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StandingOrder {
    /// Its id.
    pub id: OrderId,
    /// Who gave it.
    pub issuer: CreditCode,
    /// Whether that was an authority, whose orders reach everybody.
    pub authority: bool,
    /// Which rules.
    pub rules: Vec<Rule>,
    /// The strongest action.
    pub strongest: Action,
    /// Its last day.
    pub until: Day,
    /// Why.
    pub reason: String,
    /// The signed document.
    pub document: DocumentId,
    /// Digest of its payload: what a withdrawal follows.
    pub digest: Digest,
    /// When it was given.
    pub issued_at: Timestamp,
    /// When and why it was withdrawn, if it was.
    pub withdrawn: Option<(Timestamp, String)>,
}

impl StandingOrder {
    /// Takes an order.
    ///
    /// # Errors
    /// Nothing that cuts, no rule or one twice, a day that is over or too far ahead, more than a provider may order, or a
    /// reason that is not good.
    pub fn issue(
        body: &StandingOrderBody,
        by: &Agency,
        (document, digest): (DocumentId, Digest),
        now: Timestamp,
    ) -> Result<(Self, Fact), Refusal> {
        let spec = |what, problem: String| Err(Refusal::Spec { what, problem });
        let mut rules = body.rules.clone();
        rules.sort_unstable();
        rules.dedup();
        if rules.is_empty() || rules.len() != body.rules.len() {
            return spec("rules", "name one or more, each once".into());
        }
        if !body.strongest.cuts() {
            return spec("strongest", format!("{} cuts nothing, so it needs no order", body.strongest));
        }
        if !by.authority && body.strongest != Action::CutGrant {
            return spec("strongest", format!("a provider orders cut_grant and no more, not {}", body.strongest));
        }
        let ends_at = body.until.0.succ_opt().map_or(i64::MAX, |next| midnight(next).0);
        if ends_at <= now.0 || ends_at.saturating_sub(now.0) > ORDER_DAYS_MAX * 24 * 3_600_000 {
            return spec("until", format!("{} is over, or more than {ORDER_DAYS_MAX} days ahead", body.until));
        }
        let reason = text::reason(&body.reason)?;
        let fact = Fact::new(Act::OrderIssued, body.order, Some(by.code)).by(digest).because(&reason);
        let order = Self {
            id: body.order,
            issuer: by.code,
            authority: by.authority,
            rules,
            strongest: body.strongest,
            until: body.until,
            reason,
            document,
            digest,
            issued_at: now,
            withdrawn: None,
        };
        Ok((order, fact))
    }

    /// Ends it before its last day. What was cut under it stays cut.
    ///
    /// # Errors
    /// Withdrawn already, signed against another order, or a reason that is not good.
    pub fn withdraw(
        &self,
        predecessor: Option<Digest>,
        digest: Digest,
        reason: &str,
        now: Timestamp,
    ) -> Result<(Self, Fact), Refusal> {
        let reason = text::reason(reason)?;
        if self.withdrawn.is_some() {
            return Err(Refusal::WrongState {
                what: "standing order",
                id: self.id.to_string(),
                is: "withdrawn",
                needed: "in_force",
            });
        }
        follows(Some(self.digest), predecessor)?;
        let fact = Fact::new(Act::OrderWithdrawn, self.id, Some(self.issuer)).by(digest).because(&reason);
        Ok((Self { withdrawn: Some((now, reason)), ..self.clone() }, fact))
    }

    /// Its word at a time.
    pub fn status(&self, now: Timestamp) -> &'static str {
        match &self.withdrawn {
            Some(_) => "withdrawn",
            None if self.until.0.succ_opt().is_some_and(|next| midnight(next) <= now) => "expired",
            None => "in_force",
        }
    }

    /// Whether a rule may do this to a grant of this provider now.
    pub fn covers(&self, rule: Rule, action: Action, provider: Option<CreditCode>, now: Timestamp) -> bool {
        let reaches = self.authority || (provider == Some(self.issuer) && action == Action::CutGrant);
        reaches && self.status(now) == "in_force" && action <= self.strongest && self.rules.contains(&rule)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::super::agency;
    use super::super::agency::tests::body as agency_body;
    use super::*;

    const DAY_MS: i64 = 24 * 3_600_000;

    fn agency(authority: bool) -> Agency {
        let by = agency::Statement {
            document: DocumentId::from_bits(1),
            digest: Digest::sha256(b"a"),
            issued_at: Timestamp(1),
        };
        let body = lingqu_protocol::documents::AgencyBody { authority, ..agency_body() };
        agency::state(None, &body, by, Timestamp(1)).unwrap().0
    }

    fn body(strongest: Action) -> StandingOrderBody {
        StandingOrderBody {
            order: OrderId::from_bits(1),
            agency: String::new(),
            rules: vec![Rule::ScopeProbing, Rule::Enumeration],
            strongest,
            until: "1970-01-31".parse().unwrap(),
            reason: "值守".into(),
        }
    }

    fn issue(body: &StandingOrderBody, authority: bool) -> Result<StandingOrder, Refusal> {
        let document = (DocumentId::from_bits(2), Digest::sha256(b"o"));
        StandingOrder::issue(body, &agency(authority), document, Timestamp(1)).map(|made| made.0)
    }

    #[test]
    fn an_order_is_bounded_in_rules_strength_and_time() {
        assert!(issue(&body(Action::CutAgency), true).is_ok());
        assert!(issue(&body(Action::CutGrant), false).is_ok());
        for (wrong, authority) in [
            (body(Action::CutAgent), false),
            (body(Action::Warn), true),
            (StandingOrderBody { rules: vec![], ..body(Action::CutGrant) }, true),
            (StandingOrderBody { rules: vec![Rule::Departure; 2], ..body(Action::CutGrant) }, true),
            (StandingOrderBody { until: "1969-12-30".parse().unwrap(), ..body(Action::CutGrant) }, true),
            (StandingOrderBody { until: "1971-02-01".parse().unwrap(), ..body(Action::CutGrant) }, true),
            (StandingOrderBody { reason: String::new(), ..body(Action::CutGrant) }, true),
        ] {
            assert!(issue(&wrong, authority).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn it_covers_its_rules_up_to_its_strength_until_it_ends_and_a_providers_its_own_grants() {
        let (now, own) = (Timestamp(DAY_MS), agency(false).code);
        let other = "91512081MA62K0260E".parse().unwrap();
        let authority = issue(&body(Action::CutAgent), true).unwrap();
        let covers = |rule, action| authority.covers(rule, action, Some(other), now);
        assert!(covers(Rule::ScopeProbing, Action::CutGrant) && covers(Rule::Enumeration, Action::CutAgent));
        assert!(!covers(Rule::Enumeration, Action::CutAgency) && !covers(Rule::TwoPlaces, Action::CutAgent));
        // Its last day counts, in China.
        let end = 31 * DAY_MS - 8 * 3_600_000;
        assert!(authority.covers(Rule::Enumeration, Action::CutGrant, None, Timestamp(end - 1)));
        assert!(!authority.covers(Rule::Enumeration, Action::CutGrant, None, Timestamp(end)));
        let provider = issue(&body(Action::CutGrant), false).unwrap();
        assert!(provider.covers(Rule::Enumeration, Action::CutGrant, Some(own), now));
        assert!(!provider.covers(Rule::Enumeration, Action::CutGrant, Some(other), now));
        let (digest, follows) = (Digest::sha256(b"w"), Some(authority.digest));
        assert!(authority.withdraw(None, digest, "r", now).is_err(), "it follows the order");
        let (withdrawn, _) = authority.withdraw(follows, digest, "撤销", now).unwrap();
        assert!(!withdrawn.covers(Rule::Enumeration, Action::CutGrant, None, now));
        assert!(withdrawn.withdraw(follows, digest, "r", now).is_err());
    }
}
