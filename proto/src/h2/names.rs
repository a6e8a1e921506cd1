//! The names of HPACK's static table, as this crate knows them.
//!
//! Owns the two tables between places in the static table and [`FieldId`]s, so that no name in it is classified or looked up again.

use crate::fields::FieldId;

/// A pseudo-header field.
//= https://www.rfc-editor.org/rfc/rfc9113#section-8.3
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Pseudo {
    Authority = 1,
    Method = 2,
    Path = 4,
    Scheme = 8,
    Status = 16,
    //= https://www.rfc-editor.org/rfc/rfc8441#section-4
    Protocol = 32,
}

/// Places in the static table; where a name has several, the first one.
pub(super) mod place {
    pub(crate) const AUTHORITY: u8 = 1;
    pub(crate) const METHOD: u8 = 2;
    pub(crate) const PATH: u8 = 4;
    pub(crate) const SCHEME: u8 = 6;
    /// The first place that is no pseudo-header field.
    pub(crate) const FIELDS: u8 = 15;
    pub(crate) const CONTENT_LENGTH: u8 = 28;
    pub(crate) const CONTENT_TYPE: u8 = 31;
    pub(crate) const DATE: u8 = 33;
    pub(crate) const STRICT_TRANSPORT_SECURITY: u8 = 56;
}

impl Pseudo {
    /// The one with this name, which was taken from this place of the static table, if from any.
    pub(super) fn of(static_name: u8, name: &[u8]) -> Option<Self> {
        match static_name {
            1 => Some(Self::Authority),
            2 | 3 => Some(Self::Method),
            4 | 5 => Some(Self::Path),
            6 | 7 => Some(Self::Scheme),
            8..=14 => Some(Self::Status),
            _ => match name {
                b":authority" => Some(Self::Authority),
                b":method" => Some(Self::Method),
                b":path" => Some(Self::Path),
                b":scheme" => Some(Self::Scheme),
                b":status" => Some(Self::Status),
                b":protocol" => Some(Self::Protocol),
                _ => None,
            },
        }
    }
}

/// How many entries the static table has.
const LEN: u8 = 61;

/// The ids of the names from [`place::FIELDS`] on.
//= https://www.rfc-editor.org/rfc/rfc7541#appendix-A
static IDS: [FieldId; (LEN - place::FIELDS + 1) as usize] = [
    FieldId::Other, // accept-charset
    FieldId::AcceptEncoding,
    FieldId::Other, // accept-language
    FieldId::Other, // accept-ranges
    FieldId::Accept,
    FieldId::Other, // access-control-allow-origin
    FieldId::Age,
    FieldId::Other, // allow
    FieldId::Authorization,
    FieldId::CacheControl,
    FieldId::Other, // content-disposition
    FieldId::ContentEncoding,
    FieldId::ContentLanguage,
    FieldId::ContentLength,
    FieldId::ContentLocation,
    FieldId::ContentRange,
    FieldId::ContentType,
    FieldId::Cookie,
    FieldId::Date,
    FieldId::ETag,
    FieldId::Expect,
    FieldId::Expires,
    FieldId::Other, // from
    FieldId::Host,
    FieldId::IfMatch,
    FieldId::IfModifiedSince,
    FieldId::IfNoneMatch,
    FieldId::IfRange,
    FieldId::IfUnmodifiedSince,
    FieldId::LastModified,
    FieldId::Other, // link
    FieldId::Location,
    FieldId::MaxForwards,
    FieldId::ProxyAuthenticate,
    FieldId::ProxyAuthorization,
    FieldId::Range,
    FieldId::Referer,
    FieldId::Other, // refresh
    FieldId::RetryAfter,
    FieldId::Server,
    FieldId::SetCookie,
    FieldId::Other, // strict-transport-security
    FieldId::TransferEncoding,
    FieldId::UserAgent,
    FieldId::Vary,
    FieldId::Via,
    FieldId::WwwAuthenticate,
];

/// By [`FieldId`], its place in the static table, or 0.
static PLACES: [u8; 64] = {
    let mut places = [0; 64];
    let mut index = 0;
    while index < IDS.len() {
        if !matches!(IDS[index], FieldId::Other) {
            places[IDS[index] as usize] = place::FIELDS + index as u8;
        }
        index += 1;
    }
    places
};

/// The id of the name at this place, if it is that of a field.
#[inline]
pub(super) fn id_at(static_name: u8) -> Option<FieldId> {
    IDS.get(static_name.checked_sub(place::FIELDS)? as usize).copied()
}

/// The place of this name, or 0.
#[inline]
pub(super) fn place_of(id: FieldId) -> u8 {
    PLACES[id as usize & 63]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names from [`place::FIELDS`] on, as in RFC 7541, appendix A.
    const NAMES: &str = "accept-charset accept-encoding accept-language accept-ranges accept access-control-allow-origin age allow \
        authorization cache-control content-disposition content-encoding content-language content-length content-location \
        content-range content-type cookie date etag expect expires from host if-match if-modified-since if-none-match if-range \
        if-unmodified-since last-modified link location max-forwards proxy-authenticate proxy-authorization range referer refresh \
        retry-after server set-cookie strict-transport-security transfer-encoding user-agent vary via www-authenticate";

    #[test]
    fn the_tables_agree_with_the_names() {
        for (index, name) in NAMES.split_whitespace().enumerate() {
            let place = place::FIELDS + index as u8;
            let id = FieldId::classify(name.as_bytes());
            assert_eq!(id_at(place), Some(id), "{name}");
            assert_eq!(place_of(id), if id == FieldId::Other { 0 } else { place }, "{name}");
            let named = [
                ("content-length", place::CONTENT_LENGTH),
                ("content-type", place::CONTENT_TYPE),
                ("date", place::DATE),
                ("strict-transport-security", place::STRICT_TRANSPORT_SECURITY),
            ];
            assert!(named.iter().all(|&(known, at)| (known == name) == (at == place)), "{name}");
        }
        assert_eq!(NAMES.split_whitespace().count(), IDS.len());
        for place in [0, 1, 14, 62, 255] {
            assert_eq!(id_at(place), None);
        }
        assert_eq!((place_of(FieldId::Underscored), place_of(FieldId::XRequestId)), (0, 0));
    }
}
