//! Reading access tokens, as the service does: signature first, then what it says.
//!
//! Invariants: claims exist only for a token whose signature held; comparing signatures takes the
//! same time wherever they differ; no error holds a part of the token.

use std::fmt;

use data_encoding::BASE64URL_NOPAD;
use hmac::Mac;
use serde_json::{Map, Value};

use super::token::mac;
use crate::secret::Secret;

/// What a token with a good signature says. Times are seconds since 1970.
#[derive(Debug, Clone, PartialEq)]
#[allow(dead_code, reason = "some fields are there for whoever reads the token next")]
pub(crate) struct Claims {
    pub(crate) aud: Vec<String>,
    pub(crate) exp: Option<u64>,
    pub(crate) nbf: Option<u64>,
    pub(crate) iat: Option<u64>,
    pub(crate) sub: Option<String>,
    pub(crate) roles: Vec<String>,
    pub(crate) groups: Vec<String>,
    /// All claims that are not among the above.
    pub(crate) other: Map<String, Value>,
}

/// The check that a token failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TokenError {
    /// Not three base64url parts that hold the JSON expected.
    Malformed,
    /// Signed by another algorithm than HS256, or not a JWT.
    Algorithm,
    Signature,
    Audience,
    /// There is no `exp`.
    NoExpiry,
    Expired,
    NotYetValid,
}

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "the access token is malformed",
            Self::Algorithm => "the access token's algorithm is not HS256",
            Self::Signature => "the access token's signature is wrong",
            Self::Audience => "the access token's audience is not this hub",
            Self::NoExpiry => "the access token has no expiry time",
            Self::Expired => "the access token has expired",
            Self::NotYetValid => "the access token is not valid yet",
        })
    }
}

impl std::error::Error for TokenError {}

/// The claims of a token, if its algorithm and signature hold. See also [`Claims::check`].
pub(crate) fn verify(key: &Secret, token: &str) -> Result<Claims, TokenError> {
    let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
    let (header, payload) = signed.split_once('.').ok_or(TokenError::Malformed)?;
    check_header(&object(header)?)?;
    let signature = decode(signature)?;
    // Constant time.
    mac(key, signed)
        .ok()
        .and_then(|mac| mac.verify_slice(&signature).ok())
        .ok_or(TokenError::Signature)?;
    Claims::read(object(payload)?)
}

fn check_header(header: &Map<String, Value>) -> Result<(), TokenError> {
    let is_jwt = match header.get("typ") {
        None => true,
        Some(typ) => typ.as_str().is_some_and(|typ| typ.eq_ignore_ascii_case("JWT")),
    };
    let is_hs256 = header.get("alg").and_then(Value::as_str) == Some("HS256");
    if is_jwt && is_hs256 { Ok(()) } else { Err(TokenError::Algorithm) }
}

fn decode(part: &str) -> Result<Vec<u8>, TokenError> {
    BASE64URL_NOPAD.decode(part.as_bytes()).map_err(|_| TokenError::Malformed)
}

fn object(part: &str) -> Result<Map<String, Value>, TokenError> {
    serde_json::from_slice(&decode(part)?).map_err(|_| TokenError::Malformed)
}

impl Claims {
    fn read(mut map: Map<String, Value>) -> Result<Self, TokenError> {
        Ok(Self {
            aud: texts(map.remove("aud"))?,
            exp: time(map.remove("exp"))?,
            nbf: time(map.remove("nbf"))?,
            iat: time(map.remove("iat"))?,
            sub: match map.remove("sub") {
                None | Some(Value::Null) => None,
                Some(sub) => Some(text(sub)?),
            },
            roles: texts(map.remove("role"))?,
            groups: texts(map.remove("webpubsub.group"))?,
            other: map,
        })
    }

    /// Whether the token is for `audience` (ASCII case ignored) and valid at `now_unix`, clocks
    /// differing by `skew` seconds at most.
    pub(crate) fn check(&self, audience: &str, now_unix: u64, skew: u64) -> Result<(), TokenError> {
        if !self.aud.iter().any(|aud| aud.eq_ignore_ascii_case(audience)) {
            return Err(TokenError::Audience);
        }
        let exp = self.exp.ok_or(TokenError::NoExpiry)?;
        if exp.saturating_add(skew) <= now_unix {
            return Err(TokenError::Expired);
        }
        if self.nbf.is_some_and(|nbf| nbf > now_unix.saturating_add(skew)) {
            return Err(TokenError::NotYetValid);
        }
        Ok(())
    }
}

/// A claim that is a list, or one string for a list of one.
fn texts(claim: Option<Value>) -> Result<Vec<String>, TokenError> {
    let items = match claim {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(items)) => items,
        Some(one) => vec![one],
    };
    items.into_iter().map(text).collect()
}

/// One text. A number counts as the text it is written as, as at the service.
fn text(value: Value) -> Result<String, TokenError> {
    match value {
        Value::String(text) => Ok(text),
        Value::Number(number) => Ok(number.to_string()),
        _ => Err(TokenError::Malformed),
    }
}

/// A claim that is a time. RFC 7519 allows fractions; they are cut off.
fn time(claim: Option<Value>) -> Result<Option<u64>, TokenError> {
    match claim {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value
            .as_u64()
            // The cast saturates, which is right for a time too far away.
            .or_else(|| value.as_f64().filter(|t| *t >= 0.0).map(|t| t as u64))
            .map(Some)
            .ok_or(TokenError::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::super::token::{sign, sign_text};
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    const JWT: &str = r#"{"alg":"HS256","typ":"JWT"}"#;

    fn key() -> Secret {
        Secret::new("a key of these tests")
    }

    fn read(header: &str, payload: &str) -> Result<Claims, TokenError> {
        verify(&key(), sign_text(&key(), header, payload).unwrap().expose())
    }

    #[test]
    fn reads_every_claim() {
        let claims = read(
            JWT,
            r#"{"aud":"https://h/","exp":30,"nbf":10.9,"iat":9,"sub":"u","role":["a","b"],
                "webpubsub.group":["g"],"color":"red"}"#,
        )
        .unwrap();
        assert_eq!(
            claims,
            Claims {
                aud: vec!["https://h/".into()],
                exp: Some(30),
                nbf: Some(10),
                iat: Some(9),
                sub: Some("u".into()),
                roles: vec!["a".into(), "b".into()],
                groups: vec!["g".into()],
                other: json!({"color": "red"}).as_object().unwrap().clone(),
            }
        );
    }

    #[test]
    fn a_single_string_is_a_list_of_one_and_null_is_absent() {
        let claims = read(JWT, r#"{"aud":["x","y"],"role":"r","webpubsub.group":"g"}"#).unwrap();
        assert_eq!((claims.aud.len(), claims.roles.len(), claims.groups.len()), (2, 1, 1));
        let claims = read(JWT, r#"{"aud":null,"exp":null,"sub":null,"role":null}"#).unwrap();
        assert!(claims.aud.is_empty() && claims.roles.is_empty());
        assert_eq!((claims.exp, claims.sub), (None, None));
    }

    #[test]
    fn numbers_count_as_text() {
        let claims = read(JWT, r#"{"sub":7,"role":[1,"a"],"webpubsub.group":2.5}"#).unwrap();
        assert_eq!(claims.sub.as_deref(), Some("7"));
        assert_eq!(
            (claims.roles, claims.groups),
            (vec!["1".into(), "a".into()], vec!["2.5".into()])
        );
    }

    #[test]
    fn header_must_say_hs256_and_may_leave_out_typ() {
        for (header, expected) in [
            (r#"{"alg":"HS256"}"#, Ok(())),
            (r#"{"alg":"HS256","typ":"jwt","kid":"1"}"#, Ok(())),
            (r#"{"alg":"none"}"#, Err(TokenError::Algorithm)),
            (r#"{"alg":"hs256"}"#, Err(TokenError::Algorithm)),
            (r#"{"alg":"RS256","typ":"JWT"}"#, Err(TokenError::Algorithm)),
            (r#"{"alg":"HS256","typ":"JOSE"}"#, Err(TokenError::Algorithm)),
            (r#"{"typ":"JWT"}"#, Err(TokenError::Algorithm)),
            ("[]", Err(TokenError::Malformed)),
            ("", Err(TokenError::Malformed)),
        ] {
            assert_eq!(read(header, "{}").map(|_| ()), expected, "{header}");
        }
    }

    #[test]
    fn payload_must_be_an_object_of_the_expected_types() {
        for payload in [
            "",
            "[]",
            "1",
            r#"{"exp":"soon"}"#,
            r#"{"exp":-1}"#,
            r#"{"sub":true}"#,
            r#"{"role":[[]]}"#,
            r#"{"role":{}}"#,
            r#"{"aud":true}"#,
        ] {
            assert_eq!(read(JWT, payload), Err(TokenError::Malformed), "{payload}");
        }
    }

    #[test]
    fn texts_that_are_no_tokens_are_malformed() {
        for token in ["", ".", "..", "a.b.c", "a.b", "é.é.é", "eyJhbGciOiJIUzI1NiJ9.e30="] {
            assert_eq!(verify(&key(), token), Err(TokenError::Malformed), "{token}");
        }
        let token = sign(&key(), &json!({})).unwrap();
        let padded = format!("{}=", token.expose());
        assert_eq!(verify(&key(), &padded), Err(TokenError::Malformed));
        let longer = format!("{}.e30", token.expose());
        assert!(verify(&key(), &longer).is_err());
    }

    #[test]
    fn another_key_or_no_signature_is_refused() {
        let token = sign(&key(), &json!({})).unwrap();
        assert_eq!(verify(&Secret::new("other"), token.expose()), Err(TokenError::Signature));
        let (signed, _) = token.expose().rsplit_once('.').unwrap();
        assert_eq!(verify(&key(), &format!("{signed}.")), Err(TokenError::Signature));
    }

    #[test]
    fn check_names_the_claim_that_fails() {
        let claims = |text: &str| Claims::read(serde_json::from_str(text).unwrap()).unwrap();
        let aud = "https://h/client/hubs/chat";
        let good = r#"{"aud":"HTTPS://H/client/hubs/Chat","exp":1000,"nbf":500}"#;
        for (payload, now, skew, expected) in [
            (good, 700, 0, Ok(())),
            (good, 999, 0, Ok(())),
            (good, 1000, 0, Err(TokenError::Expired)),
            (good, 1299, 300, Ok(())),
            (good, 1300, 300, Err(TokenError::Expired)),
            (good, 500, 0, Ok(())),
            (good, 499, 0, Err(TokenError::NotYetValid)),
            (good, 200, 300, Ok(())),
            (r#"{"aud":["x","https://h/client/hubs/chat"],"exp":9}"#, 1, 0, Ok(())),
            (r#"{"aud":"https://h/client/hubs/cha","exp":9}"#, 1, 0, Err(TokenError::Audience)),
            (r#"{"exp":9}"#, 1, 0, Err(TokenError::Audience)),
            (r#"{"aud":"https://h/client/hubs/chat"}"#, 1, 0, Err(TokenError::NoExpiry)),
            (r#"{"aud":"https://h/client/hubs/chat","exp":1e300}"#, u64::MAX - 1, 0, Ok(())),
        ] {
            assert_eq!(claims(payload).check(aud, now, skew), expected, "{payload} {now} {skew}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

        #[test]
        fn what_was_signed_is_read_back(
            secret in ".{0,80}",
            sub in any::<String>(),
            roles in proptest::collection::vec(any::<String>(), 0..4),
            exp in any::<u64>(),
        ) {
            let key = Secret::new(secret);
            let token = sign(&key, &json!({"sub": sub, "role": roles, "exp": exp})).unwrap();
            let claims = verify(&key, token.expose()).unwrap();
            prop_assert_eq!(claims.sub, Some(sub));
            prop_assert_eq!(claims.roles, roles);
            prop_assert_eq!(claims.exp, Some(exp));
        }

        #[test]
        fn any_changed_byte_fails(at in any::<proptest::sample::Index>(), flip in 1u8..128) {
            let token = sign(&key(), &json!({"sub": "u", "exp": 1})).unwrap();
            let mut bytes = token.expose().as_bytes().to_vec();
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            let changed = String::from_utf8(bytes).unwrap();
            let error = verify(&key(), &changed).unwrap_err();
            prop_assert!(!error.to_string().contains(&changed));
        }

        #[test]
        fn no_text_makes_the_reader_panic(text in any::<String>()) {
            prop_assert!(verify(&key(), &text).is_err());
        }
    }
}
