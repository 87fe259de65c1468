//! One order: the challenges, the key, the chain.

use std::sync::Arc;
use std::time::Duration;

use instant_acme::{
    Account, AuthorizationStatus, CertificateIdentifier, ChallengeType, Error, Identifier,
    NewOrder, Order, OrderStatus, RetryPolicy,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use rustls_pki_types::CertificateDer;

use super::authority;
use crate::challenges::{Challenges, Open};
use crate::config::model::{Acme, AcmeCertificate, Challenge};
use crate::tls;

/// How often it is asked how far the authority is, and for how long.
const POLLING: RetryPolicy =
    RetryPolicy::new().initial_delay(Duration::from_millis(500)).timeout(Duration::from_secs(60));

/// Both in PEM.
pub(super) struct Issued {
    pub(super) chain: String,
    pub(super) key: String,
}

/// Gets a certificate, in place of one that is held.
///
/// # Errors
/// Why not, in words.
pub(super) async fn issue(
    acme: &Acme,
    certificate: &AcmeCertificate,
    held: Option<&CertificateDer<'static>>,
    challenges: &Arc<Challenges>,
) -> Result<Issued, String> {
    let account = authority::account(acme).await?;
    let mut order = begin(&account, certificate, held).await?;
    let open = answer(&mut order, acme.challenge, challenges).await?;
    let status = order.poll_ready(&POLLING).await;
    drop(open);
    match status {
        Ok(OrderStatus::Ready | OrderStatus::Valid) => {}
        Ok(_) | Err(Error::Api(_)) => return Err(refusal(&mut order).await),
        Err(error) => return Err(error.to_string()),
    }
    let (request, key) = request(certificate).map_err(|error| format!("no key: {error}"))?;
    let failed = |error: Error| format!("the certificate was refused: {error}");
    order.finalize_csr(&request).await.map_err(failed)?;
    let chain = order.poll_certificate(&POLLING).await.map_err(failed)?;
    Ok(Issued { chain, key })
}

/// An authority with renewal information is told what the order replaces (RFC 9773 §5), so that it
/// counts against no limit. One that does not like that, as when it was replaced before, is asked
/// without.
async fn begin(
    account: &Account,
    certificate: &AcmeCertificate,
    held: Option<&CertificateDer<'static>>,
) -> Result<Order, String> {
    let hosts: Vec<_> =
        certificate.hosts.iter().map(|host| Identifier::Dns(host.to_string())).collect();
    if let Some(replaced) = held.and_then(|leaf| CertificateIdentifier::try_from(leaf).ok()) {
        let order = account.new_order(&NewOrder::new(&hosts).replaces(replaced)).await;
        if let Ok(order) = order {
            return Ok(order);
        }
    }
    let order = account.new_order(&NewOrder::new(&hosts)).await;
    order.map_err(|error| format!("the order was refused: {error}"))
}

/// Opens the challenges and says that they are.
async fn answer(
    order: &mut Order,
    kind: Challenge,
    challenges: &Arc<Challenges>,
) -> Result<Vec<Open>, String> {
    let mut open = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization.map_err(|error| error.to_string())?;
        if authorization.status == AuthorizationStatus::Valid {
            continue;
        }
        let host = authorization.identifier().to_string();
        let wanted = match kind {
            Challenge::Http01 => ChallengeType::Http01,
            Challenge::TlsAlpn01 => ChallengeType::TlsAlpn01,
        };
        let Some(mut challenge) = authorization.challenge(wanted) else {
            return Err(format!("the authority offers no {} for {host}", kind.as_str()));
        };
        let key = challenge.key_authorization();
        open.push(match kind {
            Challenge::Http01 => challenges.open_token(&challenge.token, key.as_str()),
            Challenge::TlsAlpn01 => {
                let config = tls::challenge::config(&host, key.digest().as_ref())?;
                challenges.open_host(&host, &config)
            }
        });
        challenge.set_ready().await.map_err(|error| error.to_string())?;
    }
    Ok(open)
}

/// Why an order is not ready, in the words of the authority.
async fn refusal(order: &mut Order) -> String {
    let mut why = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let Ok(mut authorization) = authorization else { continue };
        let host = authorization.identifier().to_string();
        let Ok(state) = authorization.refresh().await else { continue };
        let errors = state.challenges.iter().filter_map(|challenge| challenge.error.as_ref());
        why.extend(errors.map(|error| format!("{host}: {error}")));
    }
    match why.first() {
        Some(first) => first.clone(),
        None => "the order became invalid".to_owned(),
    }
}

/// A request for a certificate, and its new key.
fn request(certificate: &AcmeCertificate) -> Result<(Vec<u8>, String), rcgen::Error> {
    let hosts: Vec<String> = certificate.hosts.iter().map(ToString::to_string).collect();
    let mut params = CertificateParams::new(hosts)?;
    params.distinguished_name = DistinguishedName::new();
    let key = KeyPair::generate()?;
    let request = params.serialize_request(&key)?;
    Ok((request.der().to_vec(), key.serialize_pem()))
}
