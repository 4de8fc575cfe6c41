//! Which requests which kind of peer may make at all, before anything about the request is looked at. What an agent may
//! do with its own agency's rights is for the gate and the registry to say.

use crate::gate::Peer;
use lingqu_certs::key::PublicKey;
use lingqu_protocol::wire::request::Ask;
use std::net::SocketAddr;

/// Who is at the other end of a connection, as its certificate proves it.
#[derive(Clone, Debug)]
pub enum Caller {
    /// An agent with a certificate in force.
    Agent {
        /// Who.
        peer: Peer,
        /// The key of its certificate, which it proved to hold.
        key: PublicKey,
        /// Where its packets come from.
        address: SocketAddr,
    },
    /// The holder of an open invitation's key.
    Invited {
        /// The key.
        key: [u8; 32],
        /// Where its packets come from.
        address: SocketAddr,
    },
    /// An agent whose certificate expired and who has an open approval to renew it.
    Expired {
        /// Who.
        peer: Peer,
        /// The key of its certificate, which it proved to hold.
        key: PublicKey,
        /// Where its packets come from.
        address: SocketAddr,
    },
}

impl Caller {
    /// For logs.
    pub fn name(&self) -> String {
        match self {
            Self::Agent { peer, .. } => peer.agent.to_string(),
            Self::Invited { .. } => "invited".to_owned(),
            Self::Expired { peer, .. } => format!("{} (expired)", peer.agent),
        }
    }

    /// Where its packets come from.
    pub const fn address(&self) -> SocketAddr {
        match self {
            Self::Agent { address, .. } | Self::Invited { address, .. } | Self::Expired { address, .. } => *address,
        }
    }

    /// The agent that it is, whatever its certificate is good for.
    pub const fn peer(&self) -> Option<&Peer> {
        match self {
            Self::Agent { peer, .. } | Self::Expired { peer, .. } => Some(peer),
            Self::Invited { .. } => None,
        }
    }

    /// Whether this kind of caller may ask this kind of thing. An invitation's key joins and does nothing else; an
    /// expired certificate renews and does nothing else.
    pub const fn may(&self, ask: &Ask) -> bool {
        match (self, ask) {
            (Self::Invited { .. }, Ask::Join(_)) | (Self::Expired { .. }, Ask::Renew(_)) => true,
            (Self::Invited { .. } | Self::Expired { .. }, _) | (Self::Agent { .. }, Ask::Join(_)) => false,
            (Self::Agent { .. }, _) => true,
        }
    }
}

/// Whether a request moves bulk data all the time. A subscription does so now and then, and takes its share of memory then.
pub const fn moves_data(ask: &Ask) -> bool {
    matches!(ask, Ask::PushFiles(_) | Ask::PushBatch(_) | Ask::Pull(_) | Ask::MatchKeys(_))
}

/// The transfer of a request and what it is about, for logs; as the peer wrote them.
pub fn subject(ask: &Ask) -> Option<(&str, &str)> {
    match ask {
        Ask::PushFiles(ask) => Some((&ask.transfer, &ask.entry)),
        Ask::PushBatch(ask) => Some((&ask.transfer, &ask.entry)),
        Ask::Pull(ask) => Some((&ask.transfer, &ask.target)),
        Ask::MatchKeys(ask) => Some((&ask.transfer, &ask.target)),
        Ask::Query(ask) => Some(("", &ask.target)),
        Ask::Follow(ask) => Some((&ask.subscription, &ask.entry)),
        Ask::Cancel(ask) => Some((&ask.transfer, "")),
        Ask::Narrow(ask) => Some(("", &ask.grant)),
        Ask::Join(_) | Ask::Renew(_) | Ask::Document(_) | Ask::Read(_) => None,
    }
}

/// What a request is called in logs and metrics.
pub const fn name(ask: &Ask) -> &'static str {
    match ask {
        Ask::Join(_) => "join",
        Ask::Renew(_) => "renew",
        Ask::Document(_) => "document",
        Ask::Read(_) => "read",
        Ask::PushFiles(_) => "push_files",
        Ask::PushBatch(_) => "push_batch",
        Ask::Pull(_) => "pull",
        Ask::Narrow(_) => "narrow",
        Ask::Cancel(_) => "cancel",
        Ask::Query(_) => "query",
        Ask::MatchKeys(_) => "match",
        Ask::Follow(_) => "follow",
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_request_has_its_callers() {
        let address: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let peer = Peer { agent: "91350100M000100Y43/a".parse().unwrap(), address: address.ip() };
        let key = PublicKey::from_bytes([0; 32]);
        let callers = [
            Caller::Agent { peer: peer.clone(), key, address },
            Caller::Invited { key: [0; 32], address },
            Caller::Expired { peer, key, address },
        ];
        let table: [(Ask, [bool; 3]); 12] = [
            (Ask::Join(Default::default()), [false, true, false]),
            (Ask::Renew(Default::default()), [true, false, true]),
            (Ask::Document(Default::default()), [true, false, false]),
            (Ask::Read(Default::default()), [true, false, false]),
            (Ask::PushFiles(Default::default()), [true, false, false]),
            (Ask::PushBatch(Default::default()), [true, false, false]),
            (Ask::Pull(Default::default()), [true, false, false]),
            (Ask::Narrow(Default::default()), [true, false, false]),
            (Ask::Cancel(Default::default()), [true, false, false]),
            (Ask::Query(Default::default()), [true, false, false]),
            (Ask::MatchKeys(Default::default()), [true, false, false]),
            (Ask::Follow(Default::default()), [true, false, false]),
        ];
        for (ask, allowed) in &table {
            let got: Vec<bool> = callers.iter().map(|c| c.may(ask)).collect();
            assert_eq!(got, allowed, "{}", name(ask));
        }
    }
}
