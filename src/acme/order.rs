//! One order: the account, the challenges, the key, the chain.

use std::sync::Arc;
use std::time::Duration;

use instant_acme::{
    Account, AccountCredentials, AuthorizationStatus, ChallengeType, Identifier, NewAccount,
    NewOrder, Order, OrderStatus, RetryPolicy,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use serde::{Deserialize, Serialize};

use super::http::Http;
use super::store;
use crate::challenges::{Challenges, Open};
use crate::config::model::{Acme, AcmeCertificate};
use crate::outgoing::{Bounds, Client};

/// How often it is asked how far the authority is, and for how long.
const POLLING: RetryPolicy =
    RetryPolicy::new().initial_delay(Duration::from_millis(500)).timeout(Duration::from_secs(60));

/// Both in PEM.
pub(super) struct Issued {
    pub(super) chain: String,
    pub(super) key: String,
}

/// The account as it is kept.
#[derive(Serialize, Deserialize)]
struct Kept {
    directory: String,
    credentials: AccountCredentials,
}

/// Gets a certificate.
///
/// # Errors
/// Why not, in words.
pub(super) async fn issue(
    acme: &Acme,
    certificate: &AcmeCertificate,
    challenges: &Arc<Challenges>,
) -> Result<Issued, String> {
    let client = Client::new(acme.ca.as_ref(), Bounds::default())
        .map_err(|error| format!("no TLS: {error}"))?;
    let account = account(acme, client).await?;
    let hosts: Vec<_> =
        certificate.hosts.iter().map(|host| Identifier::Dns(host.to_string())).collect();
    let order = account.new_order(&NewOrder::new(&hosts)).await;
    let mut order = order.map_err(|error| format!("the order was refused: {error}"))?;
    let open = answer(&mut order, challenges).await?;
    let status = order.poll_ready(&POLLING).await.map_err(|error| error.to_string())?;
    drop(open);
    if status != OrderStatus::Ready && status != OrderStatus::Valid {
        return Err(refusal(&mut order).await);
    }
    let (request, key) = request(certificate).map_err(|error| format!("no key: {error}"))?;
    let failed = |error: instant_acme::Error| format!("the certificate was refused: {error}");
    order.finalize_csr(&request).await.map_err(failed)?;
    let chain = order.poll_certificate(&POLLING).await.map_err(failed)?;
    Ok(Issued { chain, key })
}

/// The account of before, or a new one.
async fn account(acme: &Acme, client: Client) -> Result<Account, String> {
    let builder = Account::builder_with_http(Box::new(Http(client)));
    let kept = store::read_account(&acme.folder);
    let kept = kept.and_then(|bytes| serde_json::from_slice::<Kept>(&bytes).ok());
    if let Some(kept) = kept.filter(|kept| kept.directory == *acme.directory) {
        let account = builder.from_credentials(kept.credentials).await;
        return account.map_err(|error| format!("the authority cannot be asked: {error}"));
    }
    let contact: Vec<&str> = acme.contact.iter().map(|it| &**it).collect();
    let new = NewAccount {
        contact: &contact,
        terms_of_service_agreed: true,
        only_return_existing: false,
    };
    let directory = acme.directory.to_string();
    let (account, credentials) = builder
        .create(&new, directory.clone(), None)
        .await
        .map_err(|error| format!("there is no account: {error}"))?;
    let kept = serde_json::to_vec(&Kept { directory, credentials })
        .map_err(|error| format!("the account cannot be kept: {error}"))?;
    store::write_account(&acme.folder, &kept)
        .map_err(|error| format!("the account cannot be kept: {error}"))?;
    Ok(account)
}

/// Opens the challenges and says that they are.
async fn answer(order: &mut Order, challenges: &Arc<Challenges>) -> Result<Vec<Open>, String> {
    let mut open = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization.map_err(|error| error.to_string())?;
        if authorization.status == AuthorizationStatus::Valid {
            continue;
        }
        let Some(mut challenge) = authorization.challenge(ChallengeType::Http01) else {
            return Err("the authority offers no challenge by HTTP".to_owned());
        };
        let key = challenge.key_authorization();
        open.push(challenges.open(&challenge.token, key.as_str()));
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
