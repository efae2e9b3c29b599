//! Credentials as Docker users have them: an account that the caller names, a
//! credential helper, or `config.json` (<https://docs.docker.com/reference/cli/docker/login/>).
//! The helper is a process of its own, spoken to over its standard input, so that
//! one that hangs can be ended (`docker_credential` waits for it without end).

use std::collections::BTreeMap;
use std::fmt;
use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use camino::{Utf8Path, Utf8PathBuf};
use serde::Deserialize;
use tokio::io::AsyncWriteExt;

use crate::{Error, Kind};

/// Docker's name for Docker Hub in `config.json`.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";
const HELPER_TIMEOUT: Duration = Duration::from_secs(20);

#[derive(Clone, PartialEq, Eq)]
pub enum Account {
    Password {
        username: String,
        password: String,
    },
    /// An OAuth2 refresh token, as `az acr login` stores it.
    IdentityToken(String),
}

/// The secret is never printed.
impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Password { username, .. } => write!(f, "the account {username:?}"),
            Self::IdentityToken(_) => f.write_str("an identity token"),
        }
    }
}

#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// By registry, as images name it (`docker.io`); these come before Docker's.
    pub accounts: BTreeMap<String, Account>,
    /// Docker's configuration file; none: nothing but the accounts above.
    pub docker_config: Option<Utf8PathBuf>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Config {
    auths: BTreeMap<String, Entry>,
    creds_store: Option<String>,
    cred_helpers: BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "lowercase", default)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Helped {
    username: String,
    secret: String,
}

impl Credentials {
    /// `$DOCKER_CONFIG/config.json`, or the one of the home folder.
    pub fn docker_config_path(variable: impl Fn(&str) -> Option<String>) -> Option<Utf8PathBuf> {
        let set = |name| variable(name).filter(|value: &String| !value.is_empty());
        let folder = set("DOCKER_CONFIG")
            .map(Utf8PathBuf::from)
            .or_else(|| set("HOME").map(|home| Utf8PathBuf::from(home).join(".docker")));
        Some(folder?.join("config.json"))
    }

    /// The account for a registry; none if there is none.
    ///
    /// # Errors
    /// An unreadable configuration, a missing or hanging helper, an empty account:
    /// going on without an account would only be refused later, in other words.
    pub(crate) async fn find(&self, registry: &str) -> Result<Option<Account>, Error> {
        if let Some(account) = self.accounts.get(registry) {
            return complete(registry, "the environment", account.clone()).map(Some);
        }
        let Some(path) = &self.docker_config else { return Ok(None) };
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::new(Kind::Auth, format!("cannot read {path}: {error}"))),
        };
        // The parser's message may quote the line, and with it a secret: its position alone.
        let config: Config = serde_json::from_str(&text).map_err(|error| {
            let (line, column) = (error.line(), error.column());
            Error::new(Kind::Auth, format!("{path}: line {line}, column {column}: expected Docker's config.json"))
        })?;
        let names = names(registry);
        let helper = names.iter().find_map(|name| config.cred_helpers.get(*name)).or(config.creds_store.as_ref());
        if let Some(helper) = helper.filter(|helper| !helper.is_empty()) {
            for name in &names {
                if let Some(account) = ask(helper, name, path).await? {
                    return complete(registry, &format!("docker-credential-{helper}"), account).map(Some);
                }
            }
        }
        let Some(entry) = names.iter().find_map(|name| config.auths.get(*name)) else { return Ok(None) };
        match entry.account().map_err(|reason| Error::new(Kind::Auth, format!("{path}: {registry}: {reason}")))? {
            Some(account) => complete(registry, path.as_str(), account).map(Some),
            None => Ok(None),
        }
    }
}

/// As which names Docker may have stored it.
fn names(registry: &str) -> Vec<&str> {
    if registry == "docker.io" { vec![DOCKER_HUB, "index.docker.io", "docker.io"] } else { vec![registry] }
}

impl Entry {
    fn account(&self) -> Result<Option<Account>, &'static str> {
        if let Some(token) = self.identitytoken.as_ref().filter(|token| !token.is_empty()) {
            return Ok(Some(Account::IdentityToken(token.clone())));
        }
        if let Some(auth) = self.auth.as_ref().filter(|auth| !auth.is_empty()) {
            let wrong = "its \"auth\" is not the base64 of user:password";
            let decoded = STANDARD.decode(auth.trim()).map_err(|_| wrong)?;
            let decoded = String::from_utf8(decoded).map_err(|_| wrong)?;
            let (username, password) = decoded.trim_end_matches('\0').split_once(':').ok_or(wrong)?;
            return Ok(Some(Account::Password { username: username.to_owned(), password: password.to_owned() }));
        }
        let (Some(username), Some(password)) = (&self.username, &self.password) else { return Ok(None) };
        Ok(Some(Account::Password { username: username.clone(), password: password.clone() }))
    }
}

fn complete(registry: &str, whence: &str, account: Account) -> Result<Account, Error> {
    let empty = match &account {
        Account::Password { username, password } => username.trim().is_empty() || password.trim().is_empty(),
        Account::IdentityToken(token) => token.trim().is_empty(),
    };
    if empty {
        return Err(Error::new(Kind::Auth, format!("{registry}: the account from {whence} is empty")));
    }
    Ok(account)
}

/// `docker-credential-NAME get`: the registry on its input, JSON on its output
/// (<https://github.com/docker/docker-credential-helpers>).
async fn ask(helper: &str, registry: &str, config: &Utf8Path) -> Result<Option<Account>, Error> {
    let program = format!("docker-credential-{helper}");
    let failed = |reason: String| Error::new(Kind::Auth, format!("{program} (named by {config}): {reason}"));
    let mut child = tokio::process::Command::new(&program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    if let Some(mut input) = child.stdin.take() {
        // A helper that does not read has answered already.
        let _ = input.write_all(format!("{registry}\n").as_bytes()).await;
    }
    let output = match tokio::time::timeout(HELPER_TIMEOUT, child.wait_with_output()).await {
        Ok(output) => output.map_err(|error| failed(error.to_string()))?,
        Err(_) => return Err(failed(format!("no answer within {} s", HELPER_TIMEOUT.as_secs()))),
    };
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stdout);
        // The one message that the protocol fixes.
        if said.contains("credentials not found") {
            return Ok(None);
        }
        return Err(failed(format!("{}: {}", output.status, said.lines().next().unwrap_or_default())));
    }
    let helped: Helped =
        serde_json::from_slice(&output.stdout).map_err(|_| failed("its answer is not the JSON expected".to_owned()))?;
    if helped.username == "<token>" {
        return Ok(Some(Account::IdentityToken(helped.secret)));
    }
    Ok(Some(Account::Password { username: helped.username, password: helped.secret }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(username: &str, password: &str) -> Account {
        Account::Password { username: username.to_owned(), password: password.to_owned() }
    }

    async fn find(config: &str, registry: &str) -> Result<Option<Account>, Error> {
        let folder = tempfile::tempdir().unwrap();
        let path = Utf8PathBuf::from_path_buf(folder.path().join("config.json")).unwrap();
        std::fs::write(&path, config).unwrap();
        Credentials { accounts: BTreeMap::new(), docker_config: Some(path) }.find(registry).await
    }

    #[tokio::test]
    async fn docker_s_file_is_read_in_each_of_its_forms() {
        let auth = STANDARD.encode("anna:s3cret:with:colons");
        let config = format!(r#"{{"auths":{{"https://index.docker.io/v1/":{{"auth":"{auth}"}}}}}}"#);
        assert_eq!(find(&config, "docker.io").await.unwrap(), Some(password("anna", "s3cret:with:colons")));
        assert_eq!(find(&config, "quay.io").await.unwrap(), None);
        let plain = r#"{"auths":{"quay.io":{"username":"u","password":"p"}}}"#;
        assert_eq!(find(plain, "quay.io").await.unwrap(), Some(password("u", "p")));
        let token = r#"{"auths":{"x.azurecr.io":{"auth":"MDAwMDo=","identitytoken":"t"}}}"#;
        assert_eq!(find(token, "x.azurecr.io").await.unwrap(), Some(Account::IdentityToken("t".into())));
        assert_eq!(find("{}", "docker.io").await.unwrap(), None);
        assert_eq!(find(r#"{"auths":{"docker.io":{}}}"#, "docker.io").await.unwrap(), None);
    }

    #[tokio::test]
    async fn what_is_broken_or_empty_is_told_and_never_becomes_anonymous() {
        let cases = [
            (r#"{"auths":"#, "line 1"),
            (r#"{"auths":{"quay.io":{"auth":"%%%"}}}"#, "base64"),
            (r#"{"auths":{"quay.io":{"auth":"Og=="}}}"#, "is empty"),
            (r#"{"credHelpers":{"quay.io":"nobody-has-this-one"}}"#, "docker-credential-nobody-has-this-one"),
        ];
        for (config, expected) in cases {
            let error = find(config, "quay.io").await.unwrap_err();
            assert_eq!(error.kind(), Kind::Auth);
            assert!(error.to_string().contains(expected), "{error}");
        }
    }

    #[tokio::test]
    async fn a_secret_is_in_no_message() {
        let error = find(r#"{"auths":{"quay.io":{"password":"s3cret" "#, "quay.io").await.unwrap_err();
        assert!(!format!("{error} {error:?}").contains("s3cret"));
        assert!(!format!("{:?}", password("anna", "s3cret")).contains("s3cret"));
    }

    #[test]
    fn the_file_lies_where_docker_looks() {
        let path = |pairs: &'static [(&str, &str)]| {
            Credentials::docker_config_path(|name| {
                pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
            })
        };
        assert_eq!(path(&[("HOME", "/h"), ("DOCKER_CONFIG", "/d")]).unwrap(), "/d/config.json");
        assert_eq!(path(&[("HOME", "/h"), ("DOCKER_CONFIG", "")]).unwrap(), "/h/.docker/config.json");
        assert_eq!(path(&[]), None);
    }
}
