//! What a registry's refusal means, and what it says, in one line.

use std::time::Duration;

use http::{Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::address::Address;
use crate::error::{Error, Kind};

/// The most that is read of a refusal, in bytes.
const REFUSAL_LIMIT: usize = 64 << 10;

/// Turns a refusal into an error, with what the registry says.
pub(crate) async fn refusal(address: &Address, url: &str, response: Response<Incoming>) -> Error {
    let status = response.status();
    let body = tokio::time::timeout(Duration::from_secs(5), beginning(response, REFUSAL_LIMIT)).await;
    let body = body.unwrap_or_default();
    let text = String::from_utf8_lossy(&body);
    // ENOSPC is error 28: distribution prints Go's syscall error as a number.
    let no_space = text.contains("no space left on device") || text.contains("\"Err\":28");
    let lower = text.to_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    // Harbor's words for a project's quota, now and before version 2.
    let over_quota = says(&["will exceed the configured upper limit", "quota exceeded when processing"]);
    let forbidden = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
    // GitHub, GitLab, Amazon and Google each have their own wording.
    let limited = says(&["toomanyrequests", "pull rate limit", "api rate limit exceeded"])
        || forbidden && says(&["rate limit", "rate exceeded", "quota exceeded for", "resource_exhausted"]);
    let kind = match status {
        _ if no_space || over_quota && status.is_client_error() => Kind::DiskFull,
        StatusCode::TOO_MANY_REQUESTS => Kind::RateLimited,
        _ if limited && status.is_client_error() => Kind::RateLimited,
        // ECR's answer for an account whose twelve hours are over.
        _ if forbidden && text.contains("token has expired") => Kind::Auth,
        _ if forbidden => Kind::Denied,
        // By a plan, by a policy (Harbor's on vulnerabilities and signatures), by a court.
        StatusCode::PAYMENT_REQUIRED | StatusCode::PRECONDITION_FAILED | StatusCode::UNAVAILABLE_FOR_LEGAL_REASONS => {
            Kind::Denied
        }
        StatusCode::NOT_FOUND | StatusCode::GONE => Kind::NotFound,
        // Distribution answers 500 to a manifest whose layers are stored elsewhere.
        _ if text.contains("DIGEST_INVALID") || text.contains("MANIFEST_") => Kind::Invalid,
        _ if status.is_server_error() => Kind::Unreachable,
        StatusCode::PAYLOAD_TOO_LARGE => Kind::BodyLimit,
        // For example "Client sent an HTTP request to an HTTPS server."
        _ => Kind::Protocol,
    };
    let mut said = format!("{status} {}", told(&text));
    if kind == Kind::Denied && forbidden {
        said = format!("{}: no such repository, or no permission for it", said.trim());
    }
    Error { status: Some(status.as_u16()), ..address.error(kind, url, said.trim()) }
}

/// The first bytes of an answer.
async fn beginning(response: Response<Incoming>, most: usize) -> Vec<u8> {
    let (mut body, mut bytes) = (response.into_body(), Vec::new());
    while bytes.len() < most
        && let Some(Ok(frame)) = body.frame().await
    {
        if let Ok(data) = frame.into_data() {
            bytes.extend_from_slice(&data[..data.len().min(most - bytes.len())]);
        }
    }
    bytes
}

/// What a registry says, in one line: `CODE: message` for its errors (OCI distribution spec, "Error
/// Codes"), or the beginning of any other text.
pub(crate) fn told(text: &str) -> String {
    let word = |value: &serde_json::Value| value.as_str().map(str::to_owned).filter(|text| !text.is_empty());
    let one = |error: &serde_json::Value| {
        let parts: Vec<String> = [&error["code"], &error["message"]].into_iter().filter_map(word).collect();
        (!parts.is_empty()).then(|| parts.join(": "))
    };
    let answer: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
    let listed: Vec<String> = answer["errors"].as_array().into_iter().flatten().take(3).filter_map(one).collect();
    let single = || ["details", "message", "error"].iter().find_map(|key| word(&answer[*key]));
    let said = if listed.is_empty() { single() } else { Some(listed.join("; ")) };
    let said = said.unwrap_or_else(|| text.chars().take(2000).collect());
    let line = said.split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars().filter(|c| !c.is_control()).take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_registry_says_is_one_line() {
        for (body, expected) in [
            (r#"{"errors":[{"code":"DENIED","message":"no\nway","detail":{"x":1}}]}"#, "DENIED: no way"),
            (r#"{"errors":[{"code":"A"},{"message":"b"}]}"#, "A; b"),
            (r#"{"details":"incorrect username or password"}"#, "incorrect username or password"),
            ("<html>\n <b>\u{1b}[31m502</b>", "<html> <b>[31m502</b>"),
            (r#"{"errors":null}"#, r#"{"errors":null}"#),
            ("", ""),
        ] {
            assert_eq!(told(body), expected);
        }
        assert_eq!(told(&"x".repeat(5000)).len(), 300);
    }
}
