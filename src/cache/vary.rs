//! Selecting a stored response by the request fields that its `Vary` names (RFC 9111 §4.1).

use std::sync::Arc;

use http::header::VARY;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::key::{Key, KeyBuffer, KeyHasher, KeyRef};
use super::preference;

/// What the varied fields of a request may hold together, in bytes. Longer ones are nobody's real
/// preference, and every variant's key holds them.
pub(super) const VARIED_BYTES_MAX: usize = 4096;

/// The fields that the responses of one URL vary on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct VaryFields {
    /// Lower case, sorted, each once.
    names: Arc<[HeaderName]>,
    /// Part of the keys of all variants: once it is forgotten, none of them is found again.
    serial: u64,
}

/// Whether a response varies by what no request can be compared by: `*`, or a name that cannot be
/// read.
pub(super) fn is_any(response: &HeaderMap) -> bool {
    response.get_all(VARY).iter().any(|value| {
        let mut members = value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
        members.any(|name| {
            name.contains(&b'*') || (!name.is_empty() && HeaderName::from_bytes(name).is_err())
        })
    })
}

impl VaryFields {
    /// `None` where the response does not vary. `*` must have been refused before.
    pub(super) fn of(response: &HeaderMap) -> Option<Self> {
        let mut names: Vec<HeaderName> = response
            .get_all(VARY)
            .iter()
            .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
            .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
            .collect();
        names.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
        names.dedup();
        (!names.is_empty()).then(|| Self { names: names.into(), serial: 0 })
    }

    /// The fields of both, so that one URL has one set.
    pub(super) fn union(&self, other: &Self) -> Self {
        let mut names: Vec<HeaderName> = self.names.iter().chain(&*other.names).cloned().collect();
        names.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
        names.dedup();
        if names.len() == self.names.len() {
            self.clone()
        } else {
            Self { names: names.into(), serial: 0 }
        }
    }

    /// The same fields, with variants that no key made before can find.
    pub(super) fn with_serial(self, serial: u64) -> Self {
        Self { serial, ..self }
    }

    /// Whether what a request says in these fields is short enough for a key.
    pub(super) fn fits(&self, request: &HeaderMap) -> bool {
        let lines = self.names.iter().flat_map(|name| request.get_all(name));
        lines.map(HeaderValue::len).sum::<usize>() <= VARIED_BYTES_MAX
    }

    /// The key of the variant for a request with these fields, as they would be forwarded.
    pub(super) fn variant_key<'a>(
        &self,
        primary: KeyRef<'_>,
        request: &HeaderMap,
        buffer: &'a mut KeyBuffer,
        hasher: &KeyHasher,
    ) -> KeyRef<'a> {
        buffer.start_with(primary);
        buffer.part(&self.serial.to_le_bytes());
        for name in &*self.names {
            buffer.part(name.as_str().as_bytes());
            let value = combined(request, name);
            buffer.optional(value.as_deref());
        }
        buffer.key(hasher)
    }

    pub(super) fn variant_key_owned(
        &self,
        primary: KeyRef<'_>,
        request: &HeaderMap,
        hasher: &KeyHasher,
    ) -> Key {
        let mut buffer = KeyBuffer::default();
        self.variant_key(primary, request, &mut buffer, hasher).to_owned()
    }
}

/// All lines of a field as one list, white space around its members left out and preferences in
/// one spelling (RFC 9111 §4.1); `None` where the field is absent.
pub(super) fn combined(headers: &HeaderMap, name: &HeaderName) -> Option<Vec<u8>> {
    let lines = headers.get_all(name);
    lines.iter().next()?;
    let members = || {
        let members = lines.iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
        members.map(<[u8]>::trim_ascii)
    };
    if preference::is_preference(name)
        && let Some(normal) = preference::normal(name, members())
    {
        return Some(normal);
    }
    let mut value = Vec::new();
    for (index, member) in members().enumerate() {
        if index > 0 {
            value.push(b',');
        }
        value.extend_from_slice(member);
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(*name, HeaderValue::from_static(value));
        }
        map
    }

    fn key(vary: &VaryFields, hasher: &KeyHasher, request: &HeaderMap) -> Key {
        let mut primary = KeyBuffer::default();
        primary.part(b"example.com");
        vary.variant_key_owned(primary.key(hasher), request, hasher)
    }

    #[test]
    fn names_are_compared_without_regard_to_case_order_and_repetition() {
        let a =
            VaryFields::of(&headers(&[("vary", "Accept-Language, ACCEPT"), ("vary", "accept")]));
        let b = VaryFields::of(&headers(&[("vary", "accept ,accept-language")]));
        assert!(a.is_some());
        assert_eq!(a, b);
        assert_eq!(VaryFields::of(&headers(&[("vary", " , ")])), None);
    }

    #[test]
    fn lines_and_white_space_of_a_list_do_not_matter() {
        let hasher = KeyHasher::default();
        let vary = VaryFields::of(&headers(&[("vary", "x")])).expect("a field");
        let one = key(&vary, &hasher, &headers(&[("x", "a,b")]));
        assert_eq!(one, key(&vary, &hasher, &headers(&[("x", "a , b")])));
        assert_eq!(one, key(&vary, &hasher, &headers(&[("x", "a"), ("x", "b")])));
        assert_ne!(one, key(&vary, &hasher, &headers(&[("x", "b,a")])));
    }

    #[test]
    fn preferences_in_another_order_select_the_same_variant() {
        let hasher = KeyHasher::default();
        let vary = VaryFields::of(&headers(&[("vary", "accept-language")])).expect("a field");
        let one = key(&vary, &hasher, &headers(&[("accept-language", "en, de")]));
        assert_eq!(one, key(&vary, &hasher, &headers(&[("accept-language", "DE,en")])));
    }

    #[test]
    fn an_absent_field_selects_another_variant_than_an_empty_one() {
        let hasher = KeyHasher::default();
        let vary = VaryFields::of(&headers(&[("vary", "accept")])).expect("a field");
        let absent = key(&vary, &hasher, &headers(&[]));
        assert_ne!(absent, key(&vary, &hasher, &headers(&[("accept", "")])));
    }

    #[test]
    fn a_union_keeps_the_fields_of_both() {
        let of = |text| VaryFields::of(&headers(&[("vary", text)])).expect("a field");
        assert_eq!(of("accept, x-a").union(&of("x-b")), of("accept, x-a, x-b"));
        assert_eq!(of("accept").union(&of("accept")), of("accept"));
    }
}
