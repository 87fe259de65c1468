//! The authority as we know it: the account, what it says of renewals, and revocations.

use std::time::Duration;

use instant_acme::{
    Account, AccountCredentials, CertificateIdentifier, Error, NewAccount, RevocationReason,
    RevocationRequest,
};
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};

use super::board::Reason;
use super::http::Http;
use super::renewal::Window;
use super::store;
use crate::config::model::Acme;
use crate::outgoing::{Bounds, Client};

/// Of problems (RFC 8555 §6.7): somebody was faster.
const ALREADY_REVOKED: &str = "urn:ietf:params:acme:error:alreadyRevoked";

/// The account as it is kept.
#[derive(Serialize, Deserialize)]
struct Kept {
    directory: String,
    credentials: AccountCredentials,
}

/// What came of a look at renewal information.
pub(super) enum News {
    /// And after how long to look again, as the authority has it.
    Window(Window, Duration),
    /// The authority has none, or it does not know the certificate by its kind.
    None,
}

/// The account of before, or a new one.
///
/// # Errors
/// Why there is none, in words.
pub(super) async fn account(acme: &Acme) -> Result<Account, String> {
    if let Some(account) = kept_account(acme).await? {
        return Ok(account);
    }
    let contact: Vec<&str> = acme.contact.iter().map(|it| &**it).collect();
    let new = NewAccount {
        contact: &contact,
        terms_of_service_agreed: true,
        only_return_existing: false,
    };
    let directory = acme.directory.to_string();
    let (account, credentials) = Account::builder_with_http(http(acme)?)
        .create(&new, directory.clone(), None)
        .await
        .map_err(|error| format!("there is no account: {error}"))?;
    let kept = serde_json::to_vec(&Kept { directory, credentials })
        .map_err(|error| format!("the account cannot be kept: {error}"))?;
    store::write_account(&acme.folder, &kept)
        .map_err(|error| format!("the account cannot be kept: {error}"))?;
    Ok(account)
}

/// The account of before; `None` where there was none.
///
/// # Errors
/// The authority cannot be asked; why, in words.
pub(super) async fn kept_account(acme: &Acme) -> Result<Option<Account>, String> {
    let kept = store::read_account(&acme.folder);
    let kept = kept.and_then(|bytes| serde_json::from_slice::<Kept>(&bytes).ok());
    let Some(kept) = kept.filter(|kept| kept.directory == *acme.directory) else { return Ok(None) };
    let account = Account::builder_with_http(http(acme)?).from_credentials(kept.credentials).await;
    account.map(Some).map_err(|error| format!("the authority cannot be asked: {error}"))
}

fn http(acme: &Acme) -> Result<Box<Http>, String> {
    let client = Client::new(acme.ca.as_ref(), Bounds::default());
    client.map(|client| Box::new(Http(client))).map_err(|error| format!("no TLS: {error}"))
}

/// Asks when a certificate is to be renewed (RFC 9773).
///
/// # Errors
/// Why that is not known, in words.
pub(super) async fn news(account: &Account, leaf: &CertificateDer<'_>) -> Result<News, String> {
    let Ok(identifier) = CertificateIdentifier::try_from(leaf) else { return Ok(News::None) };
    let (info, again) = match account.renewal_info(&identifier).await {
        Ok(known) => known,
        Err(Error::Unsupported(_)) => return Ok(News::None),
        Err(error) => return Err(error.to_string()),
    };
    let window = Window {
        start: info.suggested_window.start.into(),
        end: info.suggested_window.end.into(),
        explanation: info.explanation_url,
    };
    Ok(News::Window(window, again))
}

/// Has a certificate revoked. One that is already counts as success.
///
/// # Errors
/// Why it is not, in words.
pub(super) async fn revoke(
    account: &Account,
    leaf: &CertificateDer<'_>,
    reason: Reason,
) -> Result<(), String> {
    let reason = match reason {
        Reason::Unspecified => RevocationReason::Unspecified,
        Reason::KeyCompromise => RevocationReason::KeyCompromise,
        Reason::AffiliationChanged => RevocationReason::AffiliationChanged,
        Reason::Superseded => RevocationReason::Superseded,
        Reason::CessationOfOperation => RevocationReason::CessationOfOperation,
    };
    let request = RevocationRequest { certificate: leaf, reason: Some(reason) };
    match account.revoke(&request).await {
        Ok(()) => Ok(()),
        Err(Error::Api(problem)) if problem.r#type.as_deref() == Some(ALREADY_REVOKED) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}
