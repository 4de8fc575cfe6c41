//! config.toml: every value has a default, and its reason stands beside it in the file that `init` writes.

use crate::flow::retention::Retention;
use crate::misuse::{Thresholds, thresholds};
use serde::Deserialize;
use std::net::SocketAddr;
use std::path::Path;

/// Bytes that the file may have: the one that `init` writes takes under 10,000.
const CONFIG_BYTES_MAX: u64 = 64 * 1024;

/// Longest life of a certificate in days: what is stolen ends with it.
const CERTIFICATE_DAYS_MAX: u32 = 366;

/// The file that `init` writes. `@ADDRESS@` is what agents dial, and `@PORT@` its port: where nothing stands between, it is
/// the gateway's own.
const TEMPLATE: &str = r#"# 灵渠网关 Lingqu gateway. 所有取值均有默认值；未知的键会被拒绝。
# Every value has a default, and unknown keys are refused. Changes take effect when the gateway starts again.

[network]
# UDP address that agents reach the gateway on (QUIC). All interfaces: agents are in other networks. Another port than that
# of `address` only where something between them translates it.
listen = "0.0.0.0:@PORT@"
# What invitations tell agents to dial: host or address, and port, as seen from their side.
address = "@ADDRESS@"
# /metrics, /healthz and /readyz. Loopback: what they tell is for the operator, and they ask for no certificate.
http = "127.0.0.1:9464"

[certificates]
# Days that an agent's certificate lives. Short, for a stolen key ends with it; it renews by itself at two thirds.
agent_days = 30
# Days that the gateway's own certificate lives. The gateway renews it by itself at two thirds.
gateway_days = 30

[lake]
# Versions of an entry that are kept, the latest among them; 0 keeps all. What is let go is in the ledger, with its digests.
versions_keep = 0
# Days that a version is kept after a later one followed it; 0 for ever. With both, what either lets go goes.
versions_days = 0

[backflow]
# Hours that a version may take from its commit to a subscriber's disk; what takes longer is a finding (article 39). A nightly
# job has a day. 0 looks for nothing.
late_hours = 26

[log]
# "text" for people, "json" for collectors. Logs go to standard error.
format = "text"
# What is logged: error, warn, info, debug or trace, or directives such as "info,lingqu_gateway::gate=debug".
filter = "info"
"#;

/// The configuration of a gateway.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// UDP address of the QUIC endpoint.
    pub listen: SocketAddr,
    /// What invitations tell agents to dial, `host:port`.
    pub address: String,
    /// TCP address of metrics and health.
    pub http: SocketAddr,
    /// Days that an agent's certificate lives.
    pub agent_days: u32,
    /// Days that the gateway's certificate lives.
    pub gateway_days: u32,
    /// Which versions are kept.
    pub retention: Retention,
    /// Hours after which a version that is not durable at a subscriber is late; 0 for never.
    pub backflow_late_hours: u32,
    /// How logs are written.
    pub log_format: LogFormat,
    /// What is logged.
    pub log_filter: String,
    /// When rules of misuse speak, and what follows.
    pub misuse: Thresholds,
}

/// How logs are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON document a line.
    Json,
}

/// A file that is no configuration; its writer corrects it.
#[derive(Debug, thiserror::Error)]
#[error("{file}: {problem}")]
pub struct ConfigError {
    /// The file.
    pub file: String,
    /// What is wrong, and where.
    pub problem: String,
}

impl Config {
    /// The text of a new file, for agents that dial `address`.
    ///
    /// # Errors
    /// An address that is not `host:port`.
    pub fn template(address: &str) -> Result<String, String> {
        check_address(address)?;
        let port = address.rsplit_once(':').map_or("4433", |(_, port)| port);
        Ok(TEMPLATE.replace("@ADDRESS@", address).replace("@PORT@", port) + thresholds::TEMPLATE)
    }

    /// Reads a file.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let error = |problem: String| ConfigError { file: path.display().to_string(), problem };
        let bytes = lingqu_certs::os::read_bounded(path, CONFIG_BYTES_MAX).map_err(|e| error(e.to_string()))?;
        let text = String::from_utf8(bytes).map_err(|_| error("it is not UTF-8".into()))?;
        Self::parse(&text).map_err(error)
    }

    /// Reads a file's text.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn parse(text: &str) -> Result<Self, String> {
        let Raw { network, certificates, lake, backflow, log, misuse } =
            toml::from_str(text).map_err(|e| e.to_string())?;
        check_address(&network.address)?;
        misuse.check()?;
        for (key, days) in [("agent_days", certificates.agent_days), ("gateway_days", certificates.gateway_days)] {
            if !(1..=CERTIFICATE_DAYS_MAX).contains(&days) {
                return Err(format!("certificates.{key}: {days} is not between 1 and {CERTIFICATE_DAYS_MAX}"));
            }
        }
        Ok(Self {
            listen: network.listen,
            address: network.address,
            http: network.http,
            agent_days: certificates.agent_days,
            gateway_days: certificates.gateway_days,
            retention: Retention { versions: lake.versions_keep, days: lake.versions_days },
            backflow_late_hours: backflow.late_hours,
            log_format: log.format,
            log_filter: log.filter,
            misuse,
        })
    }
}

fn check_address(address: &str) -> Result<(), String> {
    let good = address.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty()
            && host.len() <= 253
            && host.bytes().all(|b| b.is_ascii_alphanumeric() || b".-:[]".contains(&b))
            && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    if good { Ok(()) } else { Err(format!("network.address: {address:?} is not HOST:PORT, such as 10.1.2.3:4433")) }
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Raw {
    network: Network,
    certificates: Certificates,
    lake: Lake,
    backflow: Backflow,
    log: Log,
    misuse: Thresholds,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Lake {
    versions_keep: u64,
    versions_days: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Backflow {
    late_hours: u32,
}

impl Default for Backflow {
    fn default() -> Self {
        Self { late_hours: 26 }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Network {
    listen: SocketAddr,
    address: String,
    http: SocketAddr,
}

impl Default for Network {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([0, 0, 0, 0], 4433)),
            address: "127.0.0.1:4433".into(),
            http: SocketAddr::from(([127, 0, 0, 1], 9464)),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Certificates {
    agent_days: u32,
    gateway_days: u32,
}

impl Default for Certificates {
    fn default() -> Self {
        Self { agent_days: 30, gateway_days: 30 }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Log {
    format: LogFormat,
    filter: String,
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::Text, filter: "info".into() }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn the_file_that_init_writes_says_the_defaults() {
        let written = Config::parse(&Config::template("127.0.0.1:4433").unwrap()).unwrap();
        assert_eq!(written, Config::parse("").unwrap());
    }

    #[test]
    fn what_agents_dial_is_listened_on() {
        for address in ["gateway.test:5544", "[2001:db8::1]:5544"] {
            let written = Config::parse(&Config::template(address).unwrap()).unwrap();
            assert_eq!(written.listen.port(), 5544, "{address}");
        }
    }

    #[test]
    fn unknown_keys_and_bad_values_are_refused_by_name() {
        for (text, part) in [
            ("[network]\nlistn = \"0.0.0.0:1\"", "listn"),
            ("[netwrk]", "netwrk"),
            ("[network]\nlisten = \"here\"", "listen"),
            ("[network]\naddress = \"nowhere\"", "address"),
            ("[network]\naddress = \"a b:1\"", "address"),
            ("[network]\naddress = \"a:0\"", "address"),
            ("[certificates]\nagent_days = 0", "agent_days"),
            ("[certificates]\ngateway_days = 9999", "gateway_days"),
            ("[log]\nformat = \"xml\"", "format"),
            ("[misuse.enumeration]\ndifferent = 1", "enumeration.different"),
        ] {
            let error = Config::parse(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
        assert!(Config::template("x\"\n[log]").is_err(), "an address cannot write other keys");
    }
}
