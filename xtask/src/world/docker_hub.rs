//! Docker Hub, where most images come from: whether it, or another public registry, answers from
//! here, and the account that the environment names for it.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::join_all;
use image_mirror::{Endpoint, Proxies};

use crate::world::proxies;
use run_record::{Code, Failure};

/// As images name it.
pub(crate) const NAME: &str = "docker.io";

/// Whether public registries can be reached from here, possibly through a proxy (any HTTP status
/// counts): Docker Hub, else any of these, all of them and Docker Hub once more being asked at
/// once. Returns why not, by registry; nothing if one answers.
///
/// # Errors
/// A malformed proxy: without it nothing can be reached, which would prove nothing.
pub(crate) async fn unreachable(others: &BTreeSet<String>) -> Result<Vec<String>, Failure> {
    let hub = Endpoint::named(NAME);
    let others = others.iter().filter(|name| *name != NAME).map(|name| Endpoint::named(name)).collect();
    Ok(silent(hub, others, &proxies::named()?).await)
}

/// How long a registry may take to answer.
const PATIENCE: Duration = Duration::from_secs(4);

/// Between the two tries, for what is over the next moment.
const MOMENT: Duration = Duration::from_millis(500);

async fn silent(first: Endpoint, others: Vec<Endpoint>, proxies: &Proxies) -> Vec<String> {
    let ask = async |endpoint: &Endpoint| match tokio::time::timeout(PATIENCE, image_mirror::answers(endpoint, proxies))
        .await
    {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some(format!("{}: no answer within {} s", endpoint.host, PATIENCE.as_secs())),
    };
    if ask(&first).await.is_none() {
        return Vec::new();
    }
    tokio::time::sleep(MOMENT).await;
    let all: Vec<Endpoint> = [first].into_iter().chain(others).collect();
    let told: Vec<String> = join_all(all.iter().map(ask)).await.into_iter().flatten().collect();
    if told.len() < all.len() { Vec::new() } else { told }
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

    /// A server that hangs up on its first clients and answers those after them.
    async fn server(hangs_up: usize) -> Endpoint {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            for before in 0.. {
                let (mut client, _) = listener.accept().await.unwrap();
                if before >= hangs_up {
                    let _ = client.read(&mut [0; 4096]).await;
                    let _ = client.write_all(b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n").await;
                }
            }
        });
        Endpoint::named(&address)
    }

    #[tokio::test]
    async fn the_internet_is_given_up_only_if_nobody_answers_twice() {
        let started = std::time::Instant::now();
        let silent = async |first: Endpoint, others| super::silent(first, others, &Proxies::default()).await;
        assert_eq!(silent(server(0).await, Vec::new()).await, Vec::<String>::new());
        assert_eq!(silent(server(1).await, Vec::new()).await, Vec::<String>::new(), "one reset is none");
        assert_eq!(silent(server(9).await, vec![server(0).await]).await, Vec::<String>::new(), "another answers");
        let (hub, other) = (server(9).await, server(9).await);
        let told = silent(hub.clone(), vec![other.clone()]).await;
        assert!(told.len() == 2 && told[0].contains(&hub.host) && told[1].contains(&other.host), "{told:?}");
        assert!(started.elapsed() < Duration::from_secs(4), "without a network it is known soon");
    }

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
