//! Close codes: why a stream or a connection ended before its end record. They are the wire's whole vocabulary of failure;
//! docs/PROTOCOL.md documents each, and [`CloseCode::exit_code`] is the one place where they become a program's exit code.

/// Why one side ended a stream or a connection. The number is the QUIC application error code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum CloseCode {
    /// All was said; nothing is missing.
    Done = 0x00,
    /// Outside the approved scope, or nothing that exists for this peer.
    Denied = 0x10,
    /// The permission was suspended, terminated or stopped.
    Suspended = 0x11,
    /// The permission's period or the certificate's ended.
    Expired = 0x12,
    /// A limit of the gateway or of the grant was reached.
    OverLimit = 0x13,
    /// Bytes that do not match their digest.
    Integrity = 0x20,
    /// Data that its entry does not allow, or that cannot be decoded.
    BadData = 0x21,
    /// A peer that does not speak this protocol.
    Protocol = 0x22,
    /// Too many requests at once; try again later.
    Busy = 0x30,
    /// The gateway is shutting down; resume elsewhere or later.
    Draining = 0x31,
    /// No exchange while the gateway cannot vouch for its policy, its ledger or its clock.
    Closed = 0x32,
    /// Our fault.
    Internal = 0x40,
    /// The one who asked no longer wants it.
    Cancelled = 0x50,
}

impl CloseCode {
    /// Every code, in the order of its number.
    pub const ALL: [Self; 13] = [
        Self::Done,
        Self::Denied,
        Self::Suspended,
        Self::Expired,
        Self::OverLimit,
        Self::Integrity,
        Self::BadData,
        Self::Protocol,
        Self::Busy,
        Self::Draining,
        Self::Closed,
        Self::Internal,
        Self::Cancelled,
    ];

    /// The number on the wire.
    pub const fn code(self) -> u32 {
        self as u32
    }

    /// The code with this number; one from a later version counts as the peer's internal error.
    pub fn from_code(code: u64) -> Self {
        Self::ALL.into_iter().find(|c| u64::from(c.code()) == code).unwrap_or(Self::Internal)
    }

    /// Whether the same request may succeed later without anyone changing anything.
    pub const fn is_transient(self) -> bool {
        matches!(self, Self::Busy | Self::Draining | Self::Closed | Self::Internal)
    }

    /// The exit code of the `lingqu` command that met it.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Internal | Self::Protocol | Self::Cancelled => 1,
            Self::Denied | Self::OverLimit => 3,
            Self::Suspended | Self::Expired => 4,
            Self::Integrity => 5,
            Self::Busy | Self::Draining | Self::Closed => 6,
            Self::BadData => 7,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_distinct_and_round_trip() {
        for (i, code) in CloseCode::ALL.into_iter().enumerate() {
            assert_eq!(CloseCode::from_code(code.code().into()), code);
            assert!(CloseCode::ALL.iter().skip(i + 1).all(|c| c.code() > code.code()), "{code:?} is out of order");
        }
        assert_eq!(CloseCode::from_code(0xdead), CloseCode::Internal);
        assert_eq!(CloseCode::from_code(u64::MAX), CloseCode::Internal);
    }

    #[test]
    fn only_done_exits_with_zero_and_only_passing_states_are_tried_again() {
        for code in CloseCode::ALL {
            assert_eq!(code.exit_code() == 0, code == CloseCode::Done);
            assert!(!code.is_transient() || matches!(code.exit_code(), 1 | 6), "{code:?}");
        }
        assert!(!CloseCode::Suspended.is_transient());
    }
}
