//! Session tickets: what a client keeps so that its next handshake is short.
//!
//! Without a file the keys are random, of this process alone, and made anew every six hours (each is
//! accepted for twelve). With one a fleet shares them: a ticket of one process is good at all
//! others.
//!
//! What a client proved of itself is in its session, and rustls does not check that two
//! configurations ask the same of a client (CVE-2025-23419 is what happens then). So the keys that
//! encrypt are derived for each listener and for what it asks of a client: a ticket that was given
//! out on other terms cannot be read, and the handshake is a full one.

use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hkdf;
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::server::ProducesTickets;

use super::error::LoadError;
use super::secret_lines;
use crate::config::model::FileContent;

/// Keys of one file.
const KEYS_MAX: usize = 16;
/// Random bytes of a key, as other servers have them as well.
const KEY_BYTES: [usize; 2] = [48, 80];
/// How long a ticket is accepted, in seconds: as long as one under random keys.
const LIFETIME_SECONDS: u32 = 12 * 60 * 60;

const NAME_BYTES: usize = 16;
const CIPHER_KEY_BYTES: usize = 32;
const ISSUED_BYTES: usize = 8;

/// What a fleet shares: the first key encrypts, all decrypt.
pub(super) struct TicketKeys(Vec<hkdf::Prk>);

impl fmt::Debug for TicketKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TicketKeys({})", self.0.len())
    }
}

impl TicketKeys {
    /// Reads a file with one key in each line: 48 or 80 random bytes, in base64 or hexadecimal.
    /// Empty lines and those that begin with `#` do not count.
    pub(super) fn parse(file: &FileContent) -> Result<Self, LoadError> {
        let problem = |line: Option<usize>, reason: &str| LoadError::TicketKeys {
            path: file.path.clone(),
            line,
            reason: reason.to_owned(),
        };
        let mut secrets: Vec<Vec<u8>> = Vec::new();
        for (line, text) in secret_lines::lines(&file.bytes) {
            let secret = secret_lines::bytes(text)
                .ok_or_else(|| problem(Some(line), "it is neither base64 nor hexadecimal"))?;
            if !KEY_BYTES.contains(&secret.len()) {
                let reason = format!("a key has 48 or 80 bytes, and this one {}", secret.len());
                return Err(problem(Some(line), &reason));
            }
            if secrets.contains(&secret) {
                return Err(problem(Some(line), "the key stands twice"));
            }
            secrets.push(secret);
        }
        if secrets.is_empty() {
            return Err(problem(None, "there is no key in it"));
        }
        if secrets.len() > KEYS_MAX {
            return Err(problem(None, &format!("there are more than {KEYS_MAX} keys")));
        }
        let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, b"headwater session tickets 1");
        Ok(Self(secrets.iter().map(|secret| salt.extract(secret)).collect()))
    }

    /// The tickets of one listener on some terms.
    pub(super) fn ticketer(
        &self,
        listener: &str,
        terms: &[u8],
    ) -> Result<Arc<dyn ProducesTickets>, LoadError> {
        let keys = self.0.iter().map(|key| Key::derive(key, listener, terms));
        let keys: Option<Vec<_>> = keys.collect();
        let refused = || rustls::Error::General("no ticket keys can be derived".to_owned());
        Ok(Arc::new(SharedTickets { keys: keys.ok_or_else(refused)? }))
    }
}

/// Tickets under random keys, rotated by themselves.
pub(super) fn random() -> Result<Arc<dyn ProducesTickets>, LoadError> {
    Ok(Ticketer::new()?)
}

/// One key, for one purpose. It is told by its name, and says with each ticket when that was issued.
struct Key {
    name: [u8; NAME_BYTES],
    /// Its nonces are random: with this cipher a repeated one shows no more than that two tickets
    /// are equal, and a fleet may give out very many (RFC 8452).
    cipher: LessSafeKey,
}

impl Key {
    fn derive(secret: &hkdf::Prk, listener: &str, terms: &[u8]) -> Option<Self> {
        let length = u64::try_from(listener.len()).ok()?.to_be_bytes();
        let info = [&length[..], listener.as_bytes(), terms];
        let mut bytes = [0; NAME_BYTES + CIPHER_KEY_BYTES];
        secret.expand(&info, Length(bytes.len())).ok()?.fill(&mut bytes).ok()?;
        let (name, key) = bytes.split_at(NAME_BYTES);
        let cipher = LessSafeKey::new(UnboundKey::new(&AES_256_GCM_SIV, key).ok()?);
        Some(Self { name: name.try_into().ok()?, cipher })
    }
}

struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

/// A ticket is the name of its key, a nonce, and encrypted: when it was issued, and the session.
struct SharedTickets {
    /// At least one.
    keys: Vec<Key>,
}

impl fmt::Debug for SharedTickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SharedTickets({} keys)", self.keys.len())
    }
}

impl SharedTickets {
    fn encrypt_at(&self, session: &[u8], now: u64) -> Option<Vec<u8>> {
        let key = self.keys.first()?;
        let mut nonce = [0; NONCE_LEN];
        aws_lc_rs::rand::fill(&mut nonce).ok()?;
        let mut sealed = [&now.to_be_bytes(), session].concat();
        let cipher_nonce = Nonce::assume_unique_for_key(nonce);
        key.cipher.seal_in_place_append_tag(cipher_nonce, Aad::from(key.name), &mut sealed).ok()?;
        Some([&key.name[..], &nonce, &sealed].concat())
    }

    fn decrypt_at(&self, ticket: &[u8], now: u64) -> Option<Vec<u8>> {
        let (name, rest) = ticket.split_first_chunk::<NAME_BYTES>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let key = self.keys.iter().find(|key| key.name == *name)?;
        let mut opened = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let plain = key.cipher.open_in_place(nonce, Aad::from(*name), &mut opened).ok()?;
        let (issued, session) = plain.split_first_chunk::<ISSUED_BYTES>()?;
        let age = now.saturating_sub(u64::from_be_bytes(*issued));
        (age < u64::from(LIFETIME_SECONDS)).then(|| session.to_vec())
    }
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

impl ProducesTickets for SharedTickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        LIFETIME_SECONDS
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.encrypt_at(plain, unix_now())
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.decrypt_at(cipher, unix_now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::testing::file;

    const A: &str = "4r7Pvmkbz3XDR1bgRPzr3K0kVQnO9ZxJr3XUM5rCv0zvYqZ2m7cK0oQ1g3s9Jq2e";
    const B: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\
                     202122232425262728292a2b2c2d2e2f";

    fn keys(text: &str) -> TicketKeys {
        TicketKeys::parse(&file("tickets.keys", text.as_bytes())).unwrap()
    }

    fn tickets(text: &str, listener: &str, terms: &[u8]) -> SharedTickets {
        let keys = keys(text).0.iter().map(|key| Key::derive(key, listener, terms)).collect();
        SharedTickets { keys: Option::unwrap(keys) }
    }

    #[test]
    fn the_first_key_encrypts_and_all_decrypt() {
        let (old, both) = (tickets(A, "web", b""), tickets(&format!("{B}\n{A}\n"), "web", b""));
        let ticket = old.encrypt_at(b"session", 1000).unwrap();
        assert_eq!(both.decrypt_at(&ticket, 1001).as_deref(), Some(&b"session"[..]));
        let newer = both.encrypt_at(b"session", 1000).unwrap();
        assert_eq!(old.decrypt_at(&newer, 1001), None);
        assert_ne!(newer, both.encrypt_at(b"session", 1000).unwrap());
    }

    #[test]
    fn a_ticket_is_good_for_twelve_hours() {
        let tickets = tickets(A, "web", b"");
        let ticket = tickets.encrypt_at(b"session", 1000).unwrap();
        let lifetime = u64::from(LIFETIME_SECONDS);
        assert!(tickets.decrypt_at(&ticket, 999 + lifetime).is_some());
        assert!(tickets.decrypt_at(&ticket, 1000 + lifetime).is_none());
        // The clock of whoever issued it may be ahead.
        assert!(tickets.decrypt_at(&ticket, 900).is_some());
    }

    #[test]
    fn a_ticket_on_other_terms_or_of_another_listener_cannot_be_read() {
        let ticket = tickets(A, "web", b"terms").encrypt_at(b"session", 1000).unwrap();
        for (listener, terms) in
            [("web", &b""[..]), ("web", b"others"), ("other", b"terms"), ("webt", b"erms")]
        {
            assert_eq!(tickets(A, listener, terms).decrypt_at(&ticket, 1000), None);
        }
    }

    #[test]
    fn a_ticket_that_was_tampered_with_is_refused() {
        let tickets = tickets(A, "web", b"");
        let ticket = tickets.encrypt_at(b"session", 1000).unwrap();
        for at in 0..ticket.len() {
            let mut wrong = ticket.clone();
            wrong[at] ^= 1;
            assert_eq!(tickets.decrypt_at(&wrong, 1000), None, "{at}");
            assert_eq!(tickets.decrypt_at(&ticket[..at], 1000), None, "{at}");
        }
    }

    #[test]
    fn what_is_no_key_is_told_by_its_line_and_never_shown() {
        let error = |text: &str| {
            let error = TicketKeys::parse(&file("tickets.keys", text.as_bytes())).unwrap_err();
            error.to_string()
        };
        assert_eq!(
            error(&format!("# of the fleet\n\n{A}\nc2VjcmV0\n")),
            "line 4 of tickets.keys is no ticket key: a key has 48 or 80 bytes, and this one 6"
        );
        assert!(error("not a key!").contains("line 1"), "{}", error("not a key!"));
        assert!(!error("not a key!").contains("not a key!"));
        assert!(error(&format!("{A}\n{A}")).contains("line 2 of tickets.keys"));
        assert_eq!(error("# none"), "tickets.keys holds no ticket keys: there is no key in it");
        let many: String = (0..=KEYS_MAX).map(|at| format!("{at:096x}\n")).collect();
        assert!(error(&many).contains("more than 16 keys"), "{}", error(&many));
        assert_eq!(keys(&format!("{A}\r\n{B}\r\n")).0.len(), 2);
    }
}
