//! Why handshakes fail: a closed set, for metrics and the log.

use std::io;

use rustls::{CertificateError, Error, PeerIncompatible};

/// Why a handshake failed that neither ran out of time nor was broken off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// What came is no TLS, or breaks its rules.
    Malformed,
    /// No version in common.
    Version,
    /// No protocol in common (ALPN).
    Protocol,
    /// No suite, group or signature in common.
    Parameters,
    /// The client refused us by an alert; most often it is our certificate that it does not trust.
    ClientAlert,
    /// A certificate of the client's was required.
    CertificateMissing,
    /// It has expired, or is not valid yet.
    CertificateExpired,
    CertificateRevoked,
    /// No authority that is believed has issued it.
    CertificateUnknownIssuer,
    /// No list of revoked certificates tells, or it is out of date.
    CertificateUnknownStatus,
    /// It cannot be used for another reason.
    CertificateInvalid,
    /// The connection failed.
    Io,
}

impl Failure {
    pub const ALL: [Self; 12] = [
        Self::Malformed,
        Self::Version,
        Self::Protocol,
        Self::Parameters,
        Self::ClientAlert,
        Self::CertificateMissing,
        Self::CertificateExpired,
        Self::CertificateRevoked,
        Self::CertificateUnknownIssuer,
        Self::CertificateUnknownStatus,
        Self::CertificateInvalid,
        Self::Io,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Version => "version",
            Self::Protocol => "protocol",
            Self::Parameters => "parameters",
            Self::ClientAlert => "client_alert",
            Self::CertificateMissing => "certificate_missing",
            Self::CertificateExpired => "certificate_expired",
            Self::CertificateRevoked => "certificate_revoked",
            Self::CertificateUnknownIssuer => "certificate_unknown_issuer",
            Self::CertificateUnknownStatus => "certificate_unknown_status",
            Self::CertificateInvalid => "certificate_invalid",
            Self::Io => "io",
        }
    }

    /// Whether it is the client's certificate that was refused, or missed.
    pub fn is_about_client_certificate(self) -> bool {
        matches!(
            self,
            Self::CertificateMissing
                | Self::CertificateExpired
                | Self::CertificateRevoked
                | Self::CertificateUnknownIssuer
                | Self::CertificateUnknownStatus
                | Self::CertificateInvalid
        )
    }

    /// The reason for an error of a handshake.
    pub fn of(error: &io::Error) -> Self {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
        inner.map_or(Self::Io, Self::of_tls)
    }

    pub fn of_tls(error: &Error) -> Self {
        match error {
            Error::PeerIncompatible(why) => match why {
                // What TLS 1.1 does not have is missed before its version is looked at.
                PeerIncompatible::SignatureAlgorithmsExtensionRequired
                | PeerIncompatible::SupportedVersionsExtensionRequired
                | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
                | PeerIncompatible::Tls12NotOffered
                | PeerIncompatible::Tls12NotOfferedOrEnabled => Self::Version,
                _ => Self::Parameters,
            },
            Error::NoApplicationProtocol => Self::Protocol,
            Error::AlertReceived(_) => Self::ClientAlert,
            Error::NoCertificatesPresented => Self::CertificateMissing,
            Error::InvalidCertificate(why) => match why {
                CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. } => Self::CertificateExpired,
                CertificateError::Revoked => Self::CertificateRevoked,
                CertificateError::UnknownIssuer => Self::CertificateUnknownIssuer,
                CertificateError::UnknownRevocationStatus
                | CertificateError::ExpiredRevocationList
                | CertificateError::ExpiredRevocationListContext { .. } => {
                    Self::CertificateUnknownStatus
                }
                _ => Self::CertificateInvalid,
            },
            _ => Self::Malformed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_told_apart_and_each_reason_has_its_word() {
        for (error, expected) in [
            (Error::NoApplicationProtocol, Failure::Protocol),
            (Error::NoCertificatesPresented, Failure::CertificateMissing),
            (PeerIncompatible::NoCipherSuitesInCommon.into(), Failure::Parameters),
            (PeerIncompatible::Tls12NotOfferedOrEnabled.into(), Failure::Version),
            (CertificateError::Revoked.into(), Failure::CertificateRevoked),
            (CertificateError::BadSignature.into(), Failure::CertificateInvalid),
            (Error::DecryptError, Failure::Malformed),
        ] {
            let wrapped = io::Error::new(io::ErrorKind::InvalidData, error);
            assert_eq!(Failure::of(&wrapped), expected);
        }
        assert_eq!(Failure::of(&io::ErrorKind::ConnectionReset.into()), Failure::Io);
        let mut words = Failure::ALL.map(Failure::as_str).to_vec();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), Failure::ALL.len());
    }
}
