//! Access tokens with any claims, signed as a case wants it.

use data_encoding::BASE64URL_NOPAD;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Map, Value, json};

/// The token; `algorithm` is `HS256`, `HS384`, `HS512` or `none`.
pub(super) fn sign(algorithm: &str, key: &str, claims: &Map<String, Value>) -> String {
    let header = json!({"alg": algorithm, "typ": "JWT"});
    let encode = |bytes: &[u8]| BASE64URL_NOPAD.encode(bytes);
    let claims = serde_json::to_vec(claims).expect("claims");
    let text = format!("{}.{}", encode(header.to_string().as_bytes()), encode(&claims));
    let signature = match algorithm {
        "HS256" => mac::<Hmac<sha2::Sha256>>(key, &text),
        "HS384" => mac::<Hmac<sha2::Sha384>>(key, &text),
        "HS512" => mac::<Hmac<sha2::Sha512>>(key, &text),
        "none" => Vec::new(),
        other => panic!("unknown algorithm {other}"),
    };
    format!("{text}.{}", encode(&signature))
}

fn mac<M: Mac + KeyInit>(key: &str, text: &str) -> Vec<u8> {
    let mut mac = <M as KeyInit>::new_from_slice(key.as_bytes()).expect("a key of any length");
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}
