//! A profile's settings and their file.

use super::{ProfileError, SETTINGS_FILE};
use crate::key::PublicKey;
use lingqu_protocol::agency::AgentId;
use lingqu_protocol::ids::GatewayId;
use serde::{Deserialize, Serialize};

/// What a profile says of agent and gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Who this is.
    pub agent: AgentId,
    /// Where to dial: `host:port`.
    pub address: String,
    /// The gateway's domain.
    pub domain: String,
    /// The gateway that documents are bound to.
    pub gateway: GatewayId,
    /// The root's public key: what signed officers, agencies and receipts' keys must chain to.
    pub root: PublicKey,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SettingsToml {
    agent: String,
    address: String,
    domain: String,
    gateway: GatewayId,
    root: String,
}

impl Settings {
    pub(super) fn to_toml(&self) -> Result<String, ProfileError> {
        let toml = SettingsToml {
            agent: self.agent.to_string(),
            address: self.address.clone(),
            domain: self.domain.clone(),
            gateway: self.gateway,
            root: self.root.to_string(),
        };
        toml::to_string(&toml).map_err(|e| ProfileError::Damaged { file: SETTINGS_FILE.to_owned(), why: e.to_string() })
    }

    pub(super) fn from_toml(text: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(text).map_err(|e| e.to_string())?;
        let toml: SettingsToml = toml::from_str(text).map_err(|e| e.to_string())?;
        Ok(Self {
            agent: toml.agent.parse().map_err(|e| format!("agent: {e}"))?,
            address: toml.address,
            domain: toml.domain,
            gateway: toml.gateway,
            root: toml.root.parse().map_err(|e| format!("root: {e}"))?,
        })
    }
}
