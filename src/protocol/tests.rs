//! Properties of the codecs: what is written is read back the same, and nothing panics.

mod json;
mod messages;
#[cfg(feature = "protobuf")]
mod protobuf;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::error::ErrorKind;
use messages::{downstream, upstream};

/// What is read of it, which is the same in both forms of JSON.
fn downstream_again(protocol: Protocol, message: &Downstream) -> Downstream {
    let [plain, service] = [JsonForm::Plain, JsonForm::Service].map(|form| {
        let frame = encode_downstream_as(form, protocol, message).unwrap();
        Decoder::new(protocol).decode(&frame).unwrap()
    });
    assert_eq!(plain, service);
    service
}

fn upstream_again(protocol: Protocol, message: &Upstream<'_>) -> Upstream<'static> {
    let frame = encode_upstream(protocol, message).unwrap();
    decode_upstream(protocol, &frame).unwrap()
}

/// What of a message a subprotocol carries; `None` if it has no form there.
fn upstream_carried(
    protocol: Protocol,
    mut message: Upstream<'static>,
) -> Option<Upstream<'static>> {
    if protocol.name().starts_with("json.") {
        return Some(message);
    }
    match &mut message {
        Upstream::InvokeResponse(_) => return None,
        Upstream::Invoke(m) => m.metadata.take_if(|map| map.is_empty()),
        Upstream::SendToGroup(m) => m.metadata.take_if(|map| map.is_empty()),
        Upstream::Event(m) => m.metadata.take_if(|map| map.is_empty()),
        _ => None,
    };
    Some(message)
}

fn downstream_carried(protocol: Protocol, mut message: Downstream) -> Option<Downstream> {
    if protocol.name().starts_with("json.") {
        return Some(message);
    }
    match &mut message {
        Downstream::CancelInvocation { .. } => return None,
        Downstream::GroupMessage(m) => m.from_user_id = None,
        Downstream::Unknown { what, sequence_id } => {
            let field = what.split(' ').next().unwrap_or_default().to_owned();
            if field != "from" {
                *what = format!("{field} (new)");
            }
            if !matches!(field.as_str(), "from" | "dataType") {
                *sequence_id = None;
            }
        }
        _ => {}
    }
    Some(message)
}

proptest! {
    #[test]
    fn every_upstream_message_survives_the_wire(message in upstream()) {
        for &protocol in Protocol::ALL {
            match upstream_carried(protocol, message.clone()) {
                Some(carried) => prop_assert_eq!(upstream_again(protocol, &message), carried),
                None => {
                    let error = encode_upstream(protocol, &message).unwrap_err();
                    prop_assert_eq!(error.kind(), ErrorKind::InvalidRequest);
                }
            }
        }
    }

    #[test]
    fn every_downstream_message_survives_the_wire(message in downstream()) {
        for &protocol in Protocol::ALL {
            match downstream_carried(protocol, message.clone()) {
                Some(carried) => prop_assert_eq!(downstream_again(protocol, &message), carried),
                None => {
                    let error = encode_downstream(protocol, &message).unwrap_err();
                    prop_assert_eq!(error.kind(), ErrorKind::InvalidRequest);
                }
            }
        }
    }

    #[test]
    fn any_bytes_never_panic_and_what_they_mean_survives_the_wire(
        bytes in vec(any::<u8>(), 0..60),
    ) {
        let text = Text::from_utf8(bytes.clone().into()).map(Frame::Text);
        for frame in text.into_iter().chain([Frame::Binary(bytes.into())]) {
            for &protocol in Protocol::ALL {
                if let Ok(message) = Decoder::new(protocol).decode(&frame) {
                    prop_assert_eq!(&downstream_again(protocol, &message), &message);
                }
                if let Ok(message) = decode_upstream(protocol, &frame) {
                    prop_assert_eq!(&upstream_again(protocol, &message), &message);
                }
            }
        }
    }
}

#[test]
fn names_are_found_in_any_case_and_say_which_can_be_recovered() {
    for &protocol in Protocol::ALL {
        assert_eq!(Protocol::from_name(protocol.name()), Some(protocol));
        assert_eq!(Protocol::from_name(&protocol.name().to_uppercase()), Some(protocol));
        assert_eq!(protocol.is_reliable(), protocol.name().contains(".reliable."));
    }
    assert_eq!(Protocol::from_name("mqtt"), None);
}
