//! A certificate authority for one test.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer,
    KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber, SignatureAlgorithm,
};
use rustls::pki_types::CertificateDer;

use super::Folder;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    pem: String,
}

/// Both parts in PEM, and the certificate as it is sent.
#[derive(Debug, Clone)]
pub struct Pair {
    pub cert: String,
    pub key: String,
    pub der: CertificateDer<'static>,
}

impl Authority {
    pub fn new() -> Self {
        Self::called("authority of the tests")
    }

    pub fn called(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let (pem, certificate) = (certificate.pem(), certificate.der().clone());
        Self { issuer: Issuer::new(params, key), certificate, pem }
    }

    /// A list in PEM that revokes these serial numbers.
    pub fn revoking(&self, serials: &[u64]) -> String {
        let now = SystemTime::now();
        let revoked = serials.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: now.into(),
            reason_code: None,
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: (now - DAY).into(),
            next_update: (now + 90 * DAY).into(),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).unwrap().pem().unwrap()
    }

    pub fn certificate(&self) -> CertificateDer<'static> {
        self.certificate.clone()
    }

    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// A certificate for these names.
    pub fn issue(&self, names: &[&str]) -> Pair {
        self.issue_with(names, &rcgen::PKCS_ECDSA_P256_SHA256, |_| {})
    }

    /// The same with another kind of key, and what `change` makes of it.
    pub fn issue_with(
        &self,
        names: &[&str],
        kind: &'static SignatureAlgorithm,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Pair {
        let mut params = params(names);
        change(&mut params);
        self.sign(&params, &KeyPair::generate_for(kind).unwrap())
    }

    /// A certificate for these names and a key that is there already.
    pub fn issue_for(&self, names: &[&str], key: &KeyPair) -> Pair {
        self.sign(&params(names), key)
    }

    fn sign(&self, params: &CertificateParams, key: &KeyPair) -> Pair {
        let certificate = params.signed_by(key, &self.issuer).unwrap();
        let der = certificate.der().clone();
        Pair { cert: certificate.pem(), key: key.serialize_pem(), der }
    }

    /// A client's certificate with this serial number.
    pub fn client(&self, serial: u64) -> Pair {
        self.issue_with(&["client.test"], &rcgen::PKCS_ECDSA_P256_SHA256, |params| {
            params.serial_number = Some(SerialNumber::from(serial));
        })
    }

    /// One that has expired.
    pub fn expired(&self, names: &[&str]) -> Pair {
        self.issue_with(names, &rcgen::PKCS_ECDSA_P256_SHA256, |params| {
            params.not_after = (SystemTime::now() - DAY).into();
        })
    }

    /// Issues a certificate and writes `name.crt` and `name.key`.
    pub fn write(&self, folder: &Folder, name: &str, names: &[&str]) -> Pair {
        let pair = self.issue(names);
        pair.write(folder, name);
        pair
    }
}

fn params(names: &[&str]) -> CertificateParams {
    let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names.clone()).unwrap();
    params.distinguished_name.push(DnType::CommonName, names[0].clone());
    params
}

impl Pair {
    pub fn write(&self, folder: &Folder, name: &str) {
        folder.write(&format!("{name}.crt"), &self.cert);
        folder.write(&format!("{name}.key"), &self.key);
    }
}
