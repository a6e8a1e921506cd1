//! What the fields of a head decide, whatever protocol it came by.
//!
//! Owns the fields that framing, persistence and expectations are read from, and the rules that hold for a request in every version.
//! The heads of `h1` and `h2` note each field here as it goes by.

use crate::ascii;
use crate::fault::Fault;
use crate::fields::{FieldId, FieldSet};
use crate::framing::FramingFields;
use crate::hop_by_hop::ConnectionOptions;
use crate::message::{BodyLength, Method, RequestHead, Version};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Request,
    Response,
}

/// The result of one pass over the fields.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Facts {
    pub(crate) present: FieldSet,
    pub(crate) framing: FramingFields,
    pub(crate) connection: ConnectionOptions,
    expect: Expect,
}

/// The expectation in the Expect fields of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Expect {
    #[default]
    Nothing,
    Continue,
    Unknown,
}

/// The fields that [`Facts::note`] acts on; all others are only recorded.
pub(crate) const NOTED: FieldSet = FieldSet::of(&[
    FieldId::Connection,
    FieldId::ContentLength,
    FieldId::TransferEncoding,
    FieldId::Expect,
    FieldId::Underscored,
]);

impl Facts {
    /// Takes in one of the fields that decide something.
    pub(crate) fn note(&mut self, id: FieldId, value: &[u8], direction: Direction) -> Result<(), Fault> {
        match (id, direction) {
            (FieldId::ContentLength, _) => self.framing.add_content_length(value),
            (FieldId::TransferEncoding, _) => self.framing.add_transfer_encoding(value),
            (FieldId::Connection, _) => self.connection.add(value),
            (FieldId::Underscored, Direction::Request) => Err(Fault::UnderscoredFieldName),
            (FieldId::Expect, Direction::Request) => {
                //= https://www.rfc-editor.org/rfc/rfc9110#section-10.1.1
                let known =
                    ascii::list_members(value).all(|member| member.eq_ignore_ascii_case(b"100-continue"));
                if self.expect != Expect::Unknown {
                    self.expect = if known { Expect::Continue } else { Expect::Unknown };
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// True when the client holds its body back until it gets 100 (Continue).
    //= https://www.rfc-editor.org/rfc/rfc9110#section-10.1.1
    pub(crate) fn is_waiting_for_continue(&self, version: Version, body: BodyLength) -> Result<bool, Fault> {
        match (version, self.expect) {
            // "MUST ignore that expectation"
            (Version::Http10, _) | (_, Expect::Nothing) => Ok(false),
            (_, Expect::Unknown) => Err(Fault::Expectation),
            // Without a body there is nothing to hold back.
            (_, Expect::Continue) => Ok(!body.is_empty()),
        }
    }
}

/// Refuses content where a method has none.
pub(crate) fn check_content(method: Method<'_>, body: BodyLength) -> Result<(), Fault> {
    match method {
        _ if body.is_empty() => Ok(()),
        //= https://www.rfc-editor.org/rfc/rfc9110#section-9.3.8
        // "A client MUST NOT send content in a TRACE request."
        Method::Trace => Err(Fault::TraceWithBody),
        //= https://www.rfc-editor.org/rfc/rfc9110#section-9.3.6
        // "A CONNECT request message does not have content": what follows its head belongs to the tunnel.
        Method::Connect => Err(Fault::ConnectWithBody),
        _ => Ok(()),
    }
}

/// Refuses a Max-Forwards that counts nothing.
//= https://www.rfc-editor.org/rfc/rfc9110#section-7.6.2
pub(crate) fn check_max_forwards(head: &RequestHead<'_>) -> Result<(), Fault> {
    let is_invalid = head.fields.has(FieldId::MaxForwards) && !head.has_valid_max_forwards();
    if is_invalid { Err(Fault::InvalidMaxForwards) } else { Ok(()) }
}
