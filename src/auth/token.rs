//! Signing of access tokens: JWT with HMAC-SHA256, the only algorithm of the service.
//!
//! The key is the text of the access key as it stands; that it looks like base64 means nothing.

use data_encoding::BASE64URL_NOPAD;
use hmac::digest::InvalidLength;
use hmac::{Hmac, KeyInit, Mac};
use serde::Serialize;
use sha2::Sha256;

use crate::error::{Error, ErrorKind, Result};
use crate::secret::Secret;

const HEADER: &str = r#"{"alg":"HS256","typ":"JWT"}"#;

/// The token that carries `claims`, written in the order in which they serialize.
pub(crate) fn sign<T: Serialize + ?Sized>(key: &Secret, claims: &T) -> Result<Secret> {
    let payload = serde_json::to_string(claims).map_err(|e| internal().with_source(e))?;
    sign_text(key, HEADER, &payload)
}

/// The token of a header and a payload that are JSON text already.
pub(super) fn sign_text(key: &Secret, header: &str, payload: &str) -> Result<Secret> {
    let mut token = BASE64URL_NOPAD.encode(header.as_bytes());
    token.push('.');
    BASE64URL_NOPAD.encode_append(payload.as_bytes(), &mut token);
    let tag = mac(key, &token).map_err(|e| internal().with_source(e))?.finalize().into_bytes();
    token.push('.');
    BASE64URL_NOPAD.encode_append(&tag, &mut token);
    Ok(Secret::new(token))
}

/// The MAC over the signed part of a token. HMAC takes keys of any length, so this does not fail.
pub(super) fn mac(key: &Secret, signed: &str) -> Result<Hmac<Sha256>, InvalidLength> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key.expose().as_bytes())?;
    mac.update(signed.as_bytes());
    Ok(mac)
}

fn internal() -> Error {
    Error::new(ErrorKind::Internal, "the access token could not be made")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signature_equals_the_documented_check_value() {
        let key = Secret::new("0123456789abcdef0123456789abcdef");
        let payload = concat!(
            r#"{"iat":1767225600,"exp":1767229200,"role":["webpubsub.joinLeaveGroup"],"#,
            r#""webpubsub.group":["g0"],"#,
            r#""aud":"https://demo.webpubsub.azure.com/client/hubs/chat","sub":"u1"}"#,
        );
        let token = sign_text(&key, HEADER, payload).unwrap();
        let parts: Vec<_> = token.expose().split('.').collect();
        assert_eq!(parts[0], "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9");
        assert_eq!(BASE64URL_NOPAD.decode(parts[1].as_bytes()).unwrap(), payload.as_bytes());
        assert_eq!(parts[2], "yPSb3961giVWqBBGYO5tTpb7CO2rBpR8Gz25tB6LCvE");
        assert_eq!(parts.len(), 3);
    }

    #[test]
    fn any_key_length_signs() {
        for len in [0, 1, 63, 64, 65, 1000] {
            assert!(sign(&Secret::new("k".repeat(len)), &serde_json::json!({})).is_ok(), "{len}");
        }
    }

    #[test]
    fn claims_that_do_not_serialize_are_an_error() {
        let claims = std::collections::BTreeMap::from([((1, 2), 3)]);
        let error = sign(&Secret::new("key"), &claims).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Internal);
    }
}
