//! `doctor`: one look at everything that can be in the way, and what to ask of whom.

use super::{App, look};
use crate::connect::{Backoff, Link, Session, is_due};
use crate::error::{AgentError, Party, Told};
use crate::output::Output;
use lingqu_certs::profile::Profile;
use lingqu_certs::quic::{IDLE_MS_MAX, KEEP_ALIVE, QuicChannel};
use serde_json::{Value, json};
use std::time::Duration;

/// How long to watch the search for the largest datagram: it takes a handful of round trips.
const MTU_SECS_MAX: u64 = 3;

/// Between two looks at it.
const MTU_LOOK: Duration = Duration::from_millis(100);

/// Looks without a change after which the search counts as over.
const MTU_QUIET_LOOKS: u32 = 8;

/// Days before its end at which a certificate is worth a warning: renewal should have come long before.
const CERTIFICATE_WARNING_DAYS: i64 = 7;

/// How one check went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Good,
    Warning,
    Bad,
}

impl Verdict {
    const fn word(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Warning => "warning",
            Self::Bad => "bad",
        }
    }

    const fn mark(self, output: &Output) -> &'static str {
        match self {
            Self::Good => output.pick("ok     ", "正常"),
            Self::Warning => output.pick("warning", "注意"),
            Self::Bad => output.pick("BAD    ", "故障"),
        }
    }
}

/// One check: what was looked at, how it went, what was seen, and what to do.
struct Check {
    name: (&'static str, &'static str),
    verdict: Verdict,
    told: Box<Told>,
}

impl Check {
    fn new(en: &'static str, zh: &'static str, verdict: Verdict, told: Box<Told>) -> Self {
        Self { name: (en, zh), verdict, told }
    }
}

pub(super) async fn doctor(app: &App) -> Result<(), AgentError> {
    let profile = app.profile()?;
    let mut checks = vec![certificate_check(app, &profile)];
    let link = Link::new(app.machine.clone(), profile.clone()).without_renewal();
    let met = link.open(Backoff::ONCE).await;
    let failure = match met {
        Ok(session) => {
            checks.extend(session_checks(&session).await);
            session.close();
            link.goodbye().await;
            None
        }
        Err(error) => {
            let name = match error.party() {
                Party::Network => ("network (UDP)", "网络（UDP）"),
                _ => ("gateway", "网关"),
            };
            let told = match error.party() {
                Party::Network => error.told().next("ask for what stands below", "按下文请网络管理员配置"),
                _ => error.told(),
            };
            checks.push(Check { name, verdict: Verdict::Bad, told });
            Some(error)
        }
    };
    let firewall = firewall(&profile);
    let json = report(&checks, &firewall);
    app.output.say(&json, |output| readable(output, &checks, &firewall))?;
    match (failure, checks.into_iter().find(|check| check.verdict == Verdict::Bad)) {
        (Some(error), _) => Err(error),
        (None, Some(check)) => Err(AgentError::Machine(check.told)),
        (None, None) => Ok(()),
    }
}

fn certificate_check(app: &App, profile: &Profile) -> Check {
    let told = |en: String, zh: String| Told::new("certificate", en, zh);
    let (verdict, told) = match profile.validity() {
        Err(error) => (Verdict::Bad, AgentError::from(error).told()),
        Ok(validity) => {
            let now = app.machine.clock.wall();
            let (days, until) = (look::days_left(validity.until, now), validity.until);
            let told = told(format!("{days} days left, until {until}"), format!("剩余 {days} 天，至 {until}"));
            if now > validity.until || now < validity.from {
                let agent = &profile.settings().agent;
                let next = told.next(
                    format!(
                        "check this machine's clock; ask the operator for `lingqu-gateway renewal approve {agent}`, then \
                         run `lingqu renew`"
                    ),
                    format!("核对本机时钟；请网关管理员执行 lingqu-gateway renewal approve {agent}，随后执行 lingqu renew"),
                );
                (Verdict::Bad, next)
            } else if days < CERTIFICATE_WARNING_DAYS && is_due(&validity, now) {
                (Verdict::Warning, told.next("run `lingqu renew`", "执行 `lingqu renew`"))
            } else {
                (Verdict::Good, told)
            }
        }
    };
    Check::new("certificate", "证书", verdict, told)
}

async fn session_checks(session: &Session<QuicChannel>) -> Vec<Check> {
    let greeting = session.greeting();
    let connection = session.channel().connection();
    let mtu = settled_mtu(|| connection.stats().path.current_mtu).await;
    let (rtt, to) = (connection.rtt(), connection.remote_address());
    let lost = connection.stats().path.lost_packets;
    let round_trip_ms = rtt.as_secs_f64() * 1000.0;
    let network = Told::new(
        "udp",
        format!("UDP reaches {to}; round trip {round_trip_ms:.1} ms, {lost} packets lost"),
        format!("UDP 可达 {to}；往返 {round_trip_ms:.1} 毫秒，丢包 {lost}"),
    );
    let seen = Told::new("address_seen", greeting.address_seen.clone(), greeting.address_seen.clone());
    let gateway = Told::new(
        "gateway",
        format!("{} ({}), protocol {}", greeting.gateway, greeting.domain, greeting.version),
        format!("{}（{}），协议版本 {}", greeting.gateway, greeting.domain, greeting.version),
    );
    vec![
        Check::new("network (UDP)", "网络（UDP）", Verdict::Good, network),
        mtu_check(mtu),
        Check::new("gateway", "网关", Verdict::Good, gateway),
        clock_check(greeting.clock_difference_ms),
        Check::new("address as the gateway sees it", "网关所见地址", Verdict::Good, seen),
    ]
}

/// The size of datagrams once the search for the largest has come to rest.
async fn settled_mtu(look: impl Fn() -> u16) -> u16 {
    let (mut mtu, mut quiet) = (look(), 0);
    for _ in 0..MTU_SECS_MAX * 1000 / MTU_LOOK.as_millis() as u64 {
        tokio::time::sleep(MTU_LOOK).await;
        let now = look();
        quiet = if now == mtu { quiet + 1 } else { 0 };
        mtu = now;
        if quiet >= MTU_QUIET_LOOKS {
            break;
        }
    }
    mtu
}

fn mtu_check(mtu: u16) -> Check {
    /// What Ethernet leaves for UDP over IPv6; less points to a tunnel or a filter.
    const ETHERNET_PAYLOAD_BYTES: u16 = 1452;
    let told = Told::new("mtu", format!("{mtu} bytes of UDP payload"), format!("UDP 载荷 {mtu} 字节"));
    if mtu < ETHERNET_PAYLOAD_BYTES {
        let next = told.next(
            "ask the network's people whether a tunnel or filter cuts datagrams; it works, but slower",
            "询问网络管理员是否有隧道或设备限制报文长度；可用，但较慢",
        );
        return Check::new("datagram size (MTU)", "报文长度（MTU）", Verdict::Warning, next);
    }
    Check::new("datagram size (MTU)", "报文长度（MTU）", Verdict::Good, told)
}

fn clock_check(difference_ms: i64) -> Check {
    let told = Told::new(
        "clock",
        format!("the gateway's clock is {difference_ms} ms ahead of this machine's"),
        format!("网关时钟比本机快 {difference_ms} 毫秒"),
    );
    let away = difference_ms.saturating_abs();
    if away < crate::connect::CLOCK_DIFFERENCE_WARNING_MS {
        return Check::new("clock", "时钟", Verdict::Good, told);
    }
    let next = told.next("set this machine's clock (NTP)", "校准本机时钟（NTP）");
    // From here on signed documents are refused as drafted in the future.
    let bad = away >= lingqu_certs::document::DRAFTER_AHEAD_MS_MAX;
    Check::new("clock", "时钟", if bad { Verdict::Bad } else { Verdict::Warning }, next)
}

/// What to ask of whoever runs the firewall.
fn firewall(profile: &Profile) -> Told {
    let (address, idle, alive) = (&profile.settings().address, IDLE_MS_MAX / 1000, KEEP_ALIVE.as_secs());
    *Told::new(
        "firewall",
        format!(
            "let this machine send UDP to {address} from any port and let the answers back; keep such a flow open for \
             {idle} s of silence (this program speaks every {alive} s); do not cut or reassemble datagrams; no inbound \
             port is needed"
        ),
        format!(
            "放行本机任意端口发往 {address} 的 UDP 及其应答；静默 {idle} 秒内保持该会话（本程序每 {alive} 秒通信一次）；\
             不要截断或重组报文；无需开放入站端口"
        ),
    )
}

fn report(checks: &[Check], firewall: &Told) -> Value {
    let list: Vec<_> = checks
        .iter()
        .map(|check| {
            json!({
                "id": check.told.word,
                "check": check.name.0,
                "verdict": check.verdict.word(),
                "text": check.told.what.en,
                "next": check.told.next.en,
            })
        })
        .collect();
    let healthy = checks.iter().all(|check| check.verdict != Verdict::Bad);
    json!({ "healthy": healthy, "checks": list, "firewall": firewall.what.en })
}

fn readable(output: &Output, checks: &[Check], firewall: &Told) -> String {
    let mut text = String::new();
    for check in checks {
        let (name, what) =
            (output.pick(check.name.0, check.name.1), output.pick(&check.told.what.en, &check.told.what.zh));
        text.push_str(&format!("{}  {name}: {what}\n", check.verdict.mark(output)));
        if check.verdict != Verdict::Good && !check.told.next.en.is_empty() {
            let next = output.pick(&check.told.next.en, &check.told.next.zh);
            text.push_str(&format!("         {}{next}\n", output.pick("next: ", "下一步：")));
        }
    }
    text + &format!(
        "\n{}\n  {}\n",
        output.pick("What to ask the firewall's people for:", "需请防火墙管理员配置："),
        output.pick(&firewall.what.en, &firewall.what.zh)
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::output::Language;

    #[test]
    fn clocks_and_datagrams_have_their_bounds() {
        assert_eq!(clock_check(1_999).verdict, Verdict::Good);
        assert_eq!(clock_check(-2_000).verdict, Verdict::Warning);
        assert_eq!(clock_check(5 * 60 * 1000).verdict, Verdict::Bad);
        assert_eq!(clock_check(i64::MIN).verdict, Verdict::Bad);
        assert_eq!(mtu_check(1452).verdict, Verdict::Good);
        assert_eq!(mtu_check(1200).verdict, Verdict::Warning);
    }

    #[test]
    fn the_search_for_the_mtu_comes_to_rest() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let looks = std::cell::Cell::new(0u16);
        let mtu = runtime.block_on(settled_mtu(|| {
            looks.set(looks.get() + 1);
            1200 + looks.get().min(3)
        }));
        assert_eq!(mtu, 1203);
    }

    #[test]
    fn one_bad_check_is_said_with_what_to_do() {
        let checks = [mtu_check(1500), clock_check(i64::MAX)];
        let firewall = *Told::new("firewall", "let UDP out", "放行 UDP");
        let json = report(&checks, &firewall);
        assert_eq!(json["healthy"], false);
        assert_eq!(json["checks"][1]["verdict"], "bad");
        let zh = readable(&Output { json: false, language: Language::Chinese }, &checks, &firewall);
        assert!(zh.contains("校准本机时钟") && zh.contains("放行 UDP"), "{zh}");
        assert_eq!(report(&checks[..1], &firewall)["healthy"], true);
    }
}
