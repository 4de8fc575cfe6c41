//! When a rule speaks, and what follows: the table `[misuse]` of config.toml. Every value has a default; its reason stands
//! beside it in the file that `init` writes.

use super::history::DENIALS_KEPT_MAX;
use super::observation::KeySet;
use ipnet::IpNet;
use lingqu_protocol::misuse::{Action, Rule};
use serde::Deserialize;
use std::net::IpAddr;

/// Networks in one group that counts as one place, and groups: an agency has a handful of lines.
const PLACES_MAX: usize = 64;

/// The part of config.toml that `init` writes.
pub const TEMPLATE: &str = r#"
[misuse]
# The rules that work, by their codes. One that is not named sees nothing; with none ([]), nobody watches: for a measurement.
rules = ["scope_repeated", "scope_probing", "purpose_not_approved", "use_after_expiry", "over_approved", "departure", "two_places", "enumeration", "joining"]
# Whether every rule only writes down what it would have done. For the first weeks of a new gateway.
observe_only = false
# Hours in which somebody confirms or lifts what a rule cut without a standing order; then it is lifted by itself.
# A day: whoever is on duty sees it, and a wrong cut costs one night.
confirm_within_hours = 24
# Hours after a finding was lifted in which the same rule does not cut the same again: who lifted it has looked.
quiet_hours = 24
# Days after which a finding that cut nothing and that nobody looked at is closed. A month, as reports are made.
open_days = 30
# Seconds between two looks at every running stream. Long enough to cost nothing, short beside any transfer that matters.
sample_seconds = 5

# Each rule: `action` is note, warn, cut_grant, cut_agent or cut_agency; `observe_only` writes down what it would do.

[misuse.scope_repeated]
# The same request outside scope: a timer that asks for a column that was not granted. It gets nothing, so nothing is cut.
action = "warn"
observe_only = false
# A timer of every minute and half a dozen retries an hour stay below it.
count = 64
minutes = 30

[misuse.scope_probing]
# Different requests outside one grant: typing errors come in threes, not in twenties.
action = "cut_grant"
observe_only = false
different = 24
minutes = 60

[misuse.purpose_not_approved]
# Purposes that were not approved: a mistyped one is put right after a try or two.
action = "warn"
observe_only = false
count = 10
minutes = 1440

[misuse.use_after_expiry]
# A nightly timer that nobody took out asks some times a night; ten an hour is somebody who wants it.
action = "warn"
observe_only = false
count = 10
minutes = 60

[misuse.over_approved]
# Refusals for volume or rate. Nothing passes above the approved, so nothing is cut.
action = "warn"
observe_only = false
count = 20
minutes = 60
# What was measured to pass, in per cent of the approved volume, at which the gateway's own control has failed.
measured_percent = 110

[misuse.departure]
# Bytes of a day against the agent's own days: never enough alone to cut.
action = "warn"
observe_only = false
# Days with traffic that are known before it judges: two working weeks and their weekend.
days_min = 14
# Below this a day is not looked at: some hundred megabytes are one more table.
floor_mib = 256
# Robust deviations (median absolute deviation) above the median of the known days.
deviations = 10
# And this many times the largest known day, so that a month's end is no surprise to who had one.
largest_times = 3
# Weeks in which nothing came at this hour of the week before a large transfer in it is spoken of.
quiet_weeks = 4

[misuse.two_places]
# One identity that works in two networks by turns: a copied key, or a profile on two machines, which is not allowed.
action = "cut_agent"
observe_only = false
# Turns from one network to the other, while connections stand in both. A machine that moves makes one.
turns = 4
minutes = 10
# Leading bits that make one network.
network_bits_v4 = 24
network_bits_v6 = 48
# Networks that count as one place, for agencies with several lines: [["192.0.2.0/24", "198.51.100.0/24"]]
same_place = []

[misuse.enumeration]
# Different small questions of one shape: a window asks for a person a minute, a sweep for hundreds.
action = "cut_grant"
observe_only = false
different = 240
minutes = 60
# An answer of more rows is no point of a sweep.
rows_small = 1000
# Different keys in files of keys (match) within the minutes: those that nobody has, as who tries numbers asks for, and all,
# more than the largest match has. Where whole registers are compared of which few are known, raise missing_keys.
missing_keys = 240000
different_keys = 20000000

[misuse.joining]
# Grants of one requester that share a key in clear and together give personal columns that none gives alone. A warning:
# only people can say whether the uses belong together.
action = "warn"
observe_only = false
"#;

/// When rules speak and what follows.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Thresholds {
    /// The rules that work.
    pub rules: Vec<Rule>,
    /// Every rule only writes down what it would have done.
    pub observe_only: bool,
    /// Hours in which a cut without an order is confirmed.
    pub confirm_within_hours: u32,
    /// Hours without a further cut after one was lifted.
    pub quiet_hours: u32,
    /// Days that an unattended finding stays open.
    pub open_days: u32,
    /// Seconds between two looks at running streams.
    pub sample_seconds: u32,
    /// [`Rule::ScopeRepeated`].
    pub scope_repeated: ScopeRepeated,
    /// [`Rule::ScopeProbing`].
    pub scope_probing: ScopeProbing,
    /// [`Rule::PurposeNotApproved`].
    pub purpose_not_approved: PurposeNotApproved,
    /// [`Rule::UseAfterExpiry`].
    pub use_after_expiry: UseAfterExpiry,
    /// [`Rule::OverApproved`].
    pub over_approved: OverApproved,
    /// [`Rule::Departure`].
    pub departure: Departure,
    /// [`Rule::TwoPlaces`].
    pub two_places: TwoPlaces,
    /// [`Rule::Enumeration`].
    pub enumeration: Enumeration,
    /// [`Rule::Joining`].
    pub joining: Joining,
}

macro_rules! section {
    ($(#[$doc:meta])* $name:ident = $action:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty = $default:expr,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct $name {
            /// What follows.
            pub action: Action,
            /// Whether it only writes down what it would have done.
            pub observe_only: bool,
            $($(#[$field_doc])* pub $field: $type,)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { action: Action::$action, observe_only: false, $($field: $default,)* }
            }
        }
    };
}

section! {
    /// The same request outside scope: so many within so long.
    ScopeRepeated = Warn {
        /// How many.
        count: u32 = 64,
        /// Within how many minutes.
        minutes: u32 = 30,
    }
}

section! {
    /// Purposes that were not approved: so many within so long.
    PurposeNotApproved = Warn {
        /// How many.
        count: u32 = 10,
        /// Within how many minutes.
        minutes: u32 = 1440,
    }
}

section! {
    /// Requests after the end: so many within so long.
    UseAfterExpiry = Warn {
        /// How many.
        count: u32 = 10,
        /// Within how many minutes.
        minutes: u32 = 60,
    }
}

section! {
    /// So many different ones within so long.
    ScopeProbing = CutGrant {
        /// How many different ones.
        different: u32 = 24,
        /// Within how many minutes.
        minutes: u32 = 60,
    }
}

section! {
    /// Above what was approved.
    OverApproved = Warn {
        /// How many refusals.
        count: u32 = 20,
        /// Within how many minutes.
        minutes: u32 = 60,
        /// Per cent of the approved volume that are measured to have passed.
        measured_percent: u32 = 110,
    }
}

section! {
    /// Away from the agent's own history.
    Departure = Warn {
        /// Days with traffic that are known.
        days_min: u32 = 14,
        /// Mebibytes of a day below which nothing is said.
        floor_mib: u64 = 256,
        /// Robust deviations above the median day.
        deviations: u32 = 10,
        /// Times the largest known day.
        largest_times: u32 = 3,
        /// Weeks without traffic at this hour of the week.
        quiet_weeks: u32 = 4,
    }
}

section! {
    /// One identity in two networks.
    TwoPlaces = CutAgent {
        /// Turns between them.
        turns: u32 = 4,
        /// Within how many minutes.
        minutes: u32 = 10,
        /// Leading bits of an IPv4 network.
        network_bits_v4: u8 = 24,
        /// Leading bits of an IPv6 network.
        network_bits_v6: u8 = 48,
        /// Networks that count as one place.
        same_place: Vec<Vec<Network>> = Vec::new(),
    }
}

section! {
    /// A sweep.
    Enumeration = CutGrant {
        /// Different questions of one shape.
        different: u32 = 240,
        /// Within how many minutes.
        minutes: u32 = 60,
        /// Rows up to which an answer is small.
        rows_small: u64 = 1000,
        /// Different keys of files for which the grant gives nothing.
        missing_keys: u64 = 240_000,
        /// Different keys of files in all.
        different_keys: u64 = 20_000_000,
    }
}

section! {
    /// Grants that join.
    Joining = Warn {}
}

/// A network, as it is written in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network(pub IpNet);

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        text.parse()
            .map(Self)
            .map_err(|_| serde::de::Error::custom(format!("{text:?} is not a network such as 10.0.0.0/8")))
    }
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            rules: Self::all().collect(),
            observe_only: false,
            confirm_within_hours: 24,
            quiet_hours: 24,
            open_days: 30,
            sample_seconds: 5,
            scope_repeated: ScopeRepeated::default(),
            scope_probing: ScopeProbing::default(),
            purpose_not_approved: PurposeNotApproved::default(),
            use_after_expiry: UseAfterExpiry::default(),
            over_approved: OverApproved::default(),
            departure: Departure::default(),
            two_places: TwoPlaces::default(),
            enumeration: Enumeration::default(),
            joining: Joining::default(),
        }
    }
}

impl Thresholds {
    /// The rules that this table is about: all but [`Rule::BackflowLate`], whose limit is in `[backflow]`.
    fn all() -> impl Iterator<Item = Rule> {
        Rule::ALL.iter().copied().filter(|rule| *rule != Rule::BackflowLate)
    }

    /// Whether a rule works at all.
    pub fn works(&self, rule: Rule) -> bool {
        self.rules.contains(&rule)
    }

    /// The rules that were left out: who leaves one out should read of it.
    pub fn left_out(&self) -> Vec<Rule> {
        Self::all().filter(|rule| !self.works(*rule)).collect()
    }

    /// What follows from a rule, and whether it only says so.
    pub const fn of(&self, rule: Rule) -> (Action, bool) {
        let (action, observe_only) = match rule {
            Rule::ScopeRepeated => (self.scope_repeated.action, self.scope_repeated.observe_only),
            Rule::ScopeProbing => (self.scope_probing.action, self.scope_probing.observe_only),
            Rule::PurposeNotApproved => (self.purpose_not_approved.action, self.purpose_not_approved.observe_only),
            Rule::UseAfterExpiry => (self.use_after_expiry.action, self.use_after_expiry.observe_only),
            Rule::OverApproved => (self.over_approved.action, self.over_approved.observe_only),
            Rule::Departure => (self.departure.action, self.departure.observe_only),
            Rule::TwoPlaces => (self.two_places.action, self.two_places.observe_only),
            Rule::Enumeration => (self.enumeration.action, self.enumeration.observe_only),
            Rule::Joining => (self.joining.action, self.joining.observe_only),
            // Its limit is in `[backflow]`: it is a duty and no misuse, and there is nothing to cut.
            Rule::BackflowLate => (Action::Warn, false),
        };
        (action, observe_only || self.observe_only)
    }

    /// Refuses values under which a rule could not work.
    ///
    /// # Errors
    /// The first of them, and what it must be.
    pub fn check(&self) -> Result<(), String> {
        let kept = DENIALS_KEPT_MAX as u32;
        let between = |key: &str, value: u32, least: u32, most: u32| {
            if (least..=most).contains(&value) {
                return Ok(());
            }
            Err(format!("misuse.{key}: {value} is not between {least} and {most}"))
        };
        if self.works(Rule::BackflowLate) {
            return Err(
                "misuse.rules: backflow_late is a duty with its limit in [backflow]; leave it out here".to_owned()
            );
        }
        between("confirm_within_hours", self.confirm_within_hours, 1, 24 * 30)?;
        between("quiet_hours", self.quiet_hours, 0, 24 * 365)?;
        between("open_days", self.open_days, 1, 365)?;
        between("sample_seconds", self.sample_seconds, 1, 300)?;
        for (key, count, minutes) in [
            ("scope_repeated", self.scope_repeated.count, self.scope_repeated.minutes),
            ("purpose_not_approved", self.purpose_not_approved.count, self.purpose_not_approved.minutes),
            ("use_after_expiry", self.use_after_expiry.count, self.use_after_expiry.minutes),
        ] {
            between(&format!("{key}.count"), count, 1, kept)?;
            between(&format!("{key}.minutes"), minutes, 1, 7 * 24 * 60)?;
        }
        between("scope_probing.different", self.scope_probing.different, 2, kept)?;
        between("scope_probing.minutes", self.scope_probing.minutes, 1, 7 * 24 * 60)?;
        between("over_approved.count", self.over_approved.count, 1, kept)?;
        between("over_approved.minutes", self.over_approved.minutes, 1, 7 * 24 * 60)?;
        between("over_approved.measured_percent", self.over_approved.measured_percent, 101, 1000)?;
        between("departure.days_min", self.departure.days_min, 3, 35)?;
        between("departure.deviations", self.departure.deviations, 3, 1000)?;
        between("departure.largest_times", self.departure.largest_times, 1, 1000)?;
        between("departure.quiet_weeks", self.departure.quiet_weeks, 2, 200)?;
        between("two_places.turns", self.two_places.turns, 2, 16)?;
        between("two_places.minutes", self.two_places.minutes, 1, 24 * 60)?;
        between("two_places.network_bits_v4", self.two_places.network_bits_v4.into(), 8, 32)?;
        between("two_places.network_bits_v6", self.two_places.network_bits_v6.into(), 16, 128)?;
        between("enumeration.different", self.enumeration.different, 10, 2000)?;
        between("enumeration.minutes", self.enumeration.minutes, 2, 24 * 60)?;
        // Fewer would be counted by a handful of marks, more by a map that is full.
        for (key, keys, set) in [
            ("missing_keys", self.enumeration.missing_keys, KeySet::Missing),
            ("different_keys", self.enumeration.different_keys, KeySet::Any),
        ] {
            let (least, most) = (16 * set.keys_per_mark(), 4096 * set.keys_per_mark());
            if !(least..=most).contains(&keys) {
                return Err(format!("misuse.enumeration.{key}: {keys} is not between {least} and {most}"));
            }
        }
        let groups = &self.two_places.same_place;
        if groups.len() > PLACES_MAX || groups.iter().any(|group| group.len() > PLACES_MAX) {
            return Err(format!("misuse.two_places.same_place: more than {PLACES_MAX} networks or groups"));
        }
        if self.joining.action.cuts() || self.departure.action.cuts() {
            return Err("misuse: joining and departure only note or warn: neither is proof of anything".to_owned());
        }
        Ok(())
    }

    /// The place that an address belongs to: its network, or the first network of the group that holds it.
    pub fn place(&self, address: IpAddr) -> Option<IpNet> {
        let address = address.to_canonical();
        let two = &self.two_places;
        let group = two.same_place.iter().find(|group| group.iter().any(|net| net.0.contains(&address)));
        if let Some(first) = group.and_then(|group| group.first()) {
            return Some(first.0);
        }
        let bits = if address.is_ipv4() { two.network_bits_v4 } else { two.network_bits_v6 };
        IpNet::new(address, bits).ok().map(|net| net.trunc())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
