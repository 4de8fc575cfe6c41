//! The way from a profile to a session: dial, greet, and check that this is the gateway that the profile pins.

use super::dial::CERTIFICATE_EXPIRED;
use super::{Backoff, Checkpoints, Dialer, Greeting, Pins, Session, renewal, with_retries};
use crate::error::{AgentError, Told};
use crate::machine::Machine;
use crate::transfer::Dial;
use lingqu_certs::profile::Profile;
use lingqu_certs::quic::QuicChannel;
use lingqu_protocol::digest::Digest;

/// A profile with its way to the gateway.
#[derive(Debug)]
pub struct Link {
    machine: Machine,
    profile: Profile,
    dialer: Dialer,
    renews: bool,
}

impl Link {
    /// From a profile. Nothing is dialled yet.
    pub fn new(machine: Machine, profile: Profile) -> Self {
        let settings = profile.settings();
        let tls = {
            let (profile, clock) = (profile.clone(), machine.clock.clone());
            move || Ok(profile.tls(clock.clone())?)
        };
        let dialer = Dialer::new(&settings.address, &settings.domain, machine.clock.clone(), tls);
        Self { machine, profile, dialer, renews: true }
    }

    /// The same, but a certificate that is due is left as it is.
    #[must_use]
    pub fn without_renewal(mut self) -> Self {
        self.renews = false;
        self
    }

    /// The profile.
    pub const fn profile(&self) -> &Profile {
        &self.profile
    }

    /// The machine.
    pub const fn machine(&self) -> &Machine {
        &self.machine
    }

    /// One try, to the end: dial, greet, check that this is the gateway that the profile pins and that its ledger only
    /// grew. A certificate that is due is renewed on the way; one that has expired too, where the operator approved it.
    ///
    /// # Errors
    /// What is in the way; [`AgentError::Integrity`] where this is not the gateway that the profile knows.
    pub async fn dial(&self) -> Result<Session<QuicChannel>, AgentError> {
        let session = self.meet().await?;
        if !self.renews {
            return Ok(session);
        }
        if !self.has_expired() {
            renewal::where_due(self, &session).await;
            return Ok(session);
        }
        // Such a connection may renew and do nothing else.
        let renewed = renewal::renew(self, &session).await;
        session.close();
        renewed?;
        tracing::info!("the expired certificate was renewed, as the operator approved");
        self.meet().await
    }

    /// Dials, greets and checks.
    async fn meet(&self) -> Result<Session<QuicChannel>, AgentError> {
        let checkpoints = Checkpoints::new(self.profile.checkpoints_dir());
        let kept = checkpoints.latest()?;
        let session = self.dialer.dial(kept.clone()).await.map_err(|error| self.with_approval(error))?;
        let pins = Pins { root: self.profile.settings().root, ca: Digest::sha256(self.profile.ca()) };
        let greeting = session.greeting();
        let checked = self.check(greeting).and_then(|()| checkpoints.follow(&kept, greeting, &pins));
        if let Err(error) = checked {
            session.close();
            return Err(error);
        }
        Ok(session)
    }

    /// Tries as often as `backoff` says.
    ///
    /// # Errors
    /// As [`Self::dial`]; [`AgentError::Unreachable`] after the last try.
    pub async fn open(&self, backoff: Backoff) -> Result<Session<QuicChannel>, AgentError> {
        with_retries(backoff, self.machine.entropy.as_ref(), async || self.dial().await).await
    }

    /// Lets the gateway hear the goodbye.
    pub async fn goodbye(&self) {
        self.dialer.goodbye().await;
    }

    fn has_expired(&self) -> bool {
        let now = self.machine.clock.wall();
        self.profile.validity().is_ok_and(|validity| now > validity.until)
    }

    /// What a certificate that has expired needs, with the command that the operator types.
    fn with_approval(&self, error: AgentError) -> AgentError {
        let agent = &self.profile.settings().agent;
        match error {
            AgentError::Refused(mut fault) if fault.word == CERTIFICATE_EXPIRED => {
                fault.next = format!(
                    "ask the gateway's operator for `lingqu-gateway renewal approve {agent}`, then run `lingqu renew`; if \
                     the certificate should be good, check this machine's clock and the gateway's"
                );
                fault.next_zh = format!(
                    "请网关管理员执行 lingqu-gateway renewal approve {agent}，随后执行 lingqu renew；如证书应当有效，请核对双方时钟"
                );
                AgentError::Refused(fault)
            }
            other => other,
        }
    }

    fn check(&self, greeting: &Greeting) -> Result<(), AgentError> {
        let settings = self.profile.settings();
        if greeting.gateway != settings.gateway || greeting.domain != settings.domain {
            let (is, should) = (greeting.gateway, settings.gateway);
            return Err(AgentError::Integrity(
                Told::new(
                    "other_gateway",
                    format!("the gateway says it is {is}; this profile belongs to {should}"),
                    format!("对方自称 {is}，而本配置属于 {should}"),
                )
                .next(
                    "check the address in profile.toml; ask the operator",
                    "核对 profile.toml 中的地址，并询问运维人员",
                ),
            ));
        }
        Ok(())
    }
}

impl Dial for Link {
    type Channel = QuicChannel;
    async fn dial(&self) -> Result<Session<QuicChannel>, AgentError> {
        Self::dial(self).await
    }
}
