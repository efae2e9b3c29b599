//! Docker Hub, where most images come from: whether it answers from here, and the account that the
//! environment names for it.

use std::time::Duration;

use image_mirror::Endpoint;

use crate::world::proxies;
use run_record::{Code, Failure};

/// As images name it.
pub(crate) const NAME: &str = "docker.io";

/// Whether it answers from here at all, possibly through a proxy (any HTTP status counts).
///
/// # Errors
/// A malformed proxy: without it nothing can be reached, which would prove nothing.
pub(crate) async fn answers() -> Result<bool, Failure> {
    let (hub, proxies) = (Endpoint::named(NAME), proxies::named()?);
    let asked = tokio::time::timeout(Duration::from_secs(4), image_mirror::answers(&hub, &proxies)).await;
    Ok(matches!(asked, Ok(Ok(()))))
}

/// The variables that hold an account: the names that Docker's own actions use, and those of page
/// 359.
const VARIABLES: [(&str, &str); 2] = [("DOCKERHUB_USERNAME", "DOCKERHUB_TOKEN"), ("DCKR_USERNAME", "DCKR_PAT")];

/// An account; its token is never printed.
pub(crate) struct Account {
    pub username: String,
    pub token: String,
}

/// The account that the environment names. An empty variable counts as unset: the devcontainers CLI
/// gives an empty string for `${localEnv:…}` of a variable that is not set, and GitHub for a secret
/// that a fork lacks. White space around a value, such as the line break of a pasted token, is
/// ignored.
///
/// # Errors
/// `registry-auth` for an incomplete account, or for one that no header can hold: the registry's
/// refusal would not name the variable.
pub(crate) fn account(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Account>, Failure> {
    for (user_variable, token_variable) in VARIABLES {
        let set = |name: &str| variable(name).unwrap_or_default().trim().to_owned();
        let (username, token) = (set(user_variable), set(token_variable));
        let refused = |message: String| {
            Failure::new(Code::RegistryAuth, message)
                .evidence(format!("{user_variable} and {token_variable} are one account: both or none"))
                .remedy(format!("set both, or unset both: `unset {user_variable} {token_variable}`"))
        };
        let half = match (username.is_empty(), token.is_empty()) {
            (true, true) => continue,
            (true, false) => Some((user_variable, token_variable)),
            (false, true) => Some((token_variable, user_variable)),
            (false, false) => None,
        };
        if let Some((missing, there)) = half {
            return Err(refused(format!("{missing} is not set, or empty, and {there} is set")));
        }
        for (name, value) in [(user_variable, &username), (token_variable, &token)] {
            if value.contains(char::is_control) {
                return Err(refused(format!("{name} has a line break or another control character in it")));
            }
        }
        return Ok(Some(Account { username, token }));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_whole_or_none() {
        type Row = (&'static [(&'static str, &'static str)], Result<Option<&'static str>, &'static str>);
        let rows: &[Row] = &[
            (&[], Ok(None)),
            (&[("DOCKERHUB_USERNAME", "alice"), ("DOCKERHUB_TOKEN", "t")], Ok(Some("alice"))),
            (&[("DCKR_USERNAME", "bob"), ("DCKR_PAT", "t\n")], Ok(Some("bob"))),
            (&[("DCKR_USERNAME", " bob\n"), ("DCKR_PAT", "\tt\r\n")], Ok(Some("bob"))),
            (&[("DOCKERHUB_USERNAME", "alice")], Err("DOCKERHUB_TOKEN")),
            (&[("DOCKERHUB_USERNAME", ""), ("DOCKERHUB_TOKEN", "t")], Err("DOCKERHUB_USERNAME")),
            (&[("DCKR_USERNAME", "bob"), ("DCKR_PAT", " ")], Err("DCKR_PAT")),
            (&[("DCKR_USERNAME", "bob"), ("DCKR_PAT", "")], Err("DCKR_PAT")),
            (&[("DCKR_PAT", "t")], Err("DCKR_USERNAME")),
            (&[("DCKR_USERNAME", "bob"), ("DCKR_PAT", "one\ntwo")], Err("DCKR_PAT")),
            // What a devcontainer, or a fork on GitHub, passes to somebody without an account.
            (&[("DCKR_USERNAME", ""), ("DCKR_PAT", "")], Ok(None)),
            (&[("DOCKERHUB_USERNAME", ""), ("DOCKERHUB_TOKEN", "")], Ok(None)),
            (&[("DCKR_USERNAME", " "), ("DCKR_PAT", "\n")], Ok(None)),
            (&[("DCKR_USERNAME", "")], Ok(None)),
            (
                &[("DOCKERHUB_USERNAME", ""), ("DOCKERHUB_TOKEN", ""), ("DCKR_USERNAME", "bob"), ("DCKR_PAT", "t")],
                Ok(Some("bob")),
            ),
        ];
        for (variables, expected) in rows {
            let found = account(|name| {
                variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
            });
            match (found, expected) {
                (Ok(account), Ok(user)) => assert_eq!(account.map(|account| account.username).as_deref(), *user),
                (Err(failure), Err(name)) => assert!(failure.message.starts_with(name), "{failure:?}"),
                _ => panic!("{variables:?}"),
            }
        }
    }
}
