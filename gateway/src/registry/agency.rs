//! 政务部门: who takes part. The root signs what stands here; a later statement replaces an earlier one.

use super::error::Refusal;
use super::fact::{Act, Fact};
use super::text;
use lingqu_protocol::agency::CreditCode;
use lingqu_protocol::digest::Digest;
use lingqu_protocol::documents::AgencyBody;
use lingqu_protocol::host::Timestamp;
use lingqu_protocol::ids::DocumentId;
use lingqu_protocol::region::{RegionCode, RegionLevel, RegionTable};

/// Duties of one agency: what a backflow list can name without becoming unreadable.
pub const DUTIES_MAX: usize = 64;

/// An agency.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agency {
    /// Its credit code.
    pub code: CreditCode,
    /// Its name.
    pub name: String,
    /// Where it is in charge.
    pub region: RegionCode,
    /// The level of that region, as the table has it.
    pub level: RegionLevel,
    /// Its duties, as backflow lists name them.
    pub duties: Vec<String>,
    /// The agency above it.
    pub parent: Option<CreditCode>,
    /// Whether it is a 政务数据共享主管部门.
    pub authority: bool,
    /// The root's statement.
    pub document: DocumentId,
    /// Digest of the statement.
    pub digest: Digest,
    /// When the statement was drafted: an older one does not replace it.
    pub stated_at: Timestamp,
    /// When it was taken.
    pub changed_at: Timestamp,
}

impl Agency {
    /// The fields in which `other` says something else of it.
    pub fn differences(&self, other: &Self) -> Vec<&'static str> {
        let fields = [
            ("name", self.name != other.name),
            ("region", self.region != other.region),
            ("duties", self.duties != other.duties),
            ("parent", self.parent != other.parent),
            ("authority", self.authority != other.authority),
        ];
        fields.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect()
    }
}

/// The root's statement of an agency: which document, and when it was drafted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statement {
    /// The document.
    pub document: DocumentId,
    /// Digest of its payload.
    pub digest: Digest,
    /// When it was drafted.
    pub issued_at: Timestamp,
}

/// Takes the root's statement of an agency over what stands there. Where a parent is named, the caller has seen that it
/// exists.
///
/// # Errors
/// The first part that is wrong, or [`Refusal::WrongState`] where a later statement stands already.
pub fn state(
    current: Option<&Agency>,
    body: &AgencyBody,
    by: Statement,
    now: Timestamp,
) -> Result<(Agency, Fact), Refusal> {
    let spec = |what, problem: String| Refusal::Spec { what, problem };
    let code = CreditCode::parse(&body.code).map_err(|e| spec("code", e.to_string()))?;
    if let Some(later) = current.filter(|c| c.stated_at > by.issued_at) {
        return Err(Refusal::WrongState {
            what: "agency",
            id: later.code.to_string(),
            is: "named by a later statement",
            needed: "named by an earlier one or not at all",
        });
    }
    let table = RegionTable::national();
    let region = table.check(&body.region).map_err(|e| spec("region", e.to_string()))?;
    let level: RegionLevel = body.level.parse().map_err(|e| spec("level", format!("{e}")))?;
    if level != table.level(region) {
        return Err(spec("level", format!("{region} is a {}, not a {level}", table.level(region))));
    }
    if body.duties.len() > DUTIES_MAX {
        return Err(spec("duties", format!("{} are listed, and {DUTIES_MAX} are the most", body.duties.len())));
    }
    let duties = body.duties.iter().map(|d| text::name("a duty", d)).collect::<Result<Vec<_>, _>>()?;
    let parent = body.parent.as_deref().map(CreditCode::parse).transpose();
    let parent = parent.map_err(|e| spec("parent", e.to_string()))?;
    if parent == Some(code) {
        return Err(spec("parent", "an agency is not above itself".into()));
    }
    let agency = Agency {
        code,
        name: text::name("an agency's name", &body.name)?,
        region,
        level,
        duties,
        parent,
        authority: body.authority,
        document: by.document,
        digest: by.digest,
        stated_at: by.issued_at,
        changed_at: now,
    };
    let act = if current.is_some() { Act::AgencyChanged } else { Act::AgencyAdded };
    let fact = Fact::new(act, code, Some(code)).by(by.digest);
    Ok((agency, fact))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn body() -> AgencyBody {
        AgencyBody {
            code: "91350100M000100Y43".into(),
            name: "深圳市市场监督管理局".into(),
            region: "4403".into(),
            level: "city".into(),
            duties: vec!["市场主体登记".into()],
            parent: None,
            authority: false,
        }
    }

    fn at(issued_at: i64) -> Statement {
        Statement { document: DocumentId::from_bits(1), digest: Digest::sha256(b"x"), issued_at: Timestamp(issued_at) }
    }

    #[test]
    fn a_later_statement_replaces_and_an_earlier_does_not() {
        let (first, fact) = state(None, &body(), at(10), Timestamp(11)).unwrap();
        assert_eq!((fact.act, fact.document), (Act::AgencyAdded, Some(Digest::sha256(b"x"))));
        let named = AgencyBody { authority: true, ..body() };
        let (second, fact) = state(Some(&first), &named, at(20), Timestamp(21)).unwrap();
        assert!(second.authority);
        assert_eq!((fact.act, first.differences(&second)), (Act::AgencyChanged, vec!["authority"]));
        assert!(second.differences(&second).is_empty());
        assert!(matches!(state(Some(&second), &body(), at(10), Timestamp(22)), Err(Refusal::WrongState { .. })));
    }

    #[test]
    fn each_part_is_checked() {
        for wrong in [
            AgencyBody { code: "91350100M000100Y4Z".into(), ..body() },
            AgencyBody { region: "440300".into(), ..body() },
            AgencyBody { region: "9999".into(), ..body() },
            AgencyBody { level: "county".into(), ..body() },
            AgencyBody { level: "planet".into(), ..body() },
            AgencyBody { name: "a\u{202e}b".into(), ..body() },
            AgencyBody { duties: vec!["d".into(); DUTIES_MAX + 1], ..body() },
            AgencyBody { duties: vec![String::new()], ..body() },
            AgencyBody { parent: Some("x".into()), ..body() },
            AgencyBody { parent: Some("91350100M000100Y43".into()), ..body() },
        ] {
            assert!(state(None, &wrong, at(1), Timestamp(1)).is_err(), "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn the_statement_in_force_is_the_latest_taken(times in prop::collection::vec(0i64..50, 1..12)) {
            let mut current: Option<Agency> = None;
            let mut latest = i64::MIN;
            for t in times {
                match state(current.as_ref(), &body(), at(t), Timestamp(t)) {
                    Ok((next, _)) => { prop_assert!(t >= latest); latest = t; current = Some(next); }
                    Err(_) => prop_assert!(t < latest),
                }
            }
            prop_assert_eq!(current.unwrap().stated_at.0, latest);
        }
    }
}
