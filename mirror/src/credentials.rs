//! Credentials as Docker users have them: an account that the caller names, a credential helper, or
//! `config.json` (<https://docs.docker.com/reference/cli/docker/login/>). The helper runs as our
//! own child process with its input and output piped, so that one that hangs can be killed
//! (`docker_credential` would wait for it forever).
//!
//! If Docker's file or helper cannot be read, it is unknown whether there is an account: this is
//! reported, and public images are pulled without one.

use std::collections::BTreeMap;
use std::fmt;
use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use camino::{Utf8Path, Utf8PathBuf};
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

use crate::error::{Error, Kind};
use crate::reference::{DOCKER_HUB, is_docker_hub};

/// Docker's name for Docker Hub in `config.json`.
const HUB_KEY: &str = "https://index.docker.io/v1/";
const HELPER_TIMEOUT: Duration = Duration::from_secs(20);
/// The most that a helper may print or `config.json` may hold, in bytes.
const MOST: u64 = 1 << 20;

#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    Password {
        username: String,
        password: String,
    },
    /// An OAuth2 refresh token, as `az acr login` stores it.
    IdentityToken(String),
}

/// The secret is never printed.
impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Password { username, .. } => write!(f, "the account {username:?}"),
            Self::IdentityToken(_) => f.write_str("an identity token"),
        }
    }
}

#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// By registry, as images name it (`docker.io`); these take precedence over Docker's.
    pub accounts: BTreeMap<String, Credential>,
    /// Docker's configuration file; `None`: only the accounts above.
    pub docker_config: Option<Utf8PathBuf>,
    /// The value of `DOCKER_AUTH_CONFIG`, which takes precedence over the file.
    pub docker_auth_config: Option<AuthConfig>,
}

/// Text in the format of Docker's configuration file, which GitLab CI passes to jobs.
#[derive(Clone)]
pub struct AuthConfig(pub String);

/// Never prints the content, which is a secret.
impl fmt::Debug for AuthConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DOCKER_AUTH_CONFIG")
    }
}

/// Go writes empty values as `null`.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Config {
    pub auths: Option<BTreeMap<String, serde_json::Value>>,
    creds_store: Option<String>,
    cred_helpers: Option<BTreeMap<String, Option<String>>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "lowercase", default)]
pub(crate) struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Helped {
    username: String,
    secret: String,
}

/// What was found for a registry.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    pub account: Option<Credential>,
    /// Why there may be an account that could not be read.
    pub trouble: Option<String>,
}

impl Credentials {
    /// `$DOCKER_CONFIG/config.json`, or the one in the home folder.
    pub fn docker_config_path(variable: impl Fn(&str) -> Option<String>) -> Option<Utf8PathBuf> {
        let set = |name| variable(name).filter(|value: &String| !value.is_empty());
        let folder = set("DOCKER_CONFIG")
            .map(Utf8PathBuf::from)
            .or_else(|| set("HOME").map(|home| Utf8PathBuf::from(home).join(".docker")));
        Some(folder?.join("config.json"))
    }

    /// The account for a registry, if there is one.
    ///
    /// # Errors
    /// An account that is empty or malformed: going on without it would only be refused later, with
    /// a less helpful message.
    pub(crate) async fn find(&self, registry: &str) -> Result<Found, Error> {
        let wanted = host_of(registry);
        if let Some((_, account)) = self.accounts.iter().find(|(name, _)| host_of(name) == wanted) {
            let account = complete(registry, "the environment", account.clone())?;
            return Ok(Found { account: Some(account), trouble: None });
        }
        let mut unread = None;
        if let Some(AuthConfig(text)) = self.docker_auth_config.as_ref().filter(|config| !config.0.trim().is_empty()) {
            let found = Self::find_in(text, "DOCKER_AUTH_CONFIG", registry, &wanted).await?;
            if found.account.is_some() {
                return Ok(found);
            }
            unread = found.trouble;
        }
        let mut found = self.find_in_file(registry, &wanted).await?;
        if found.account.is_none() {
            found.trouble = unread.or(found.trouble);
        }
        Ok(found)
    }

    async fn find_in_file(&self, registry: &str, wanted: &str) -> Result<Found, Error> {
        let Some(path) = &self.docker_config else { return Ok(Found::default()) };
        let text = match read_file(path) {
            Ok(Some(text)) => text,
            Ok(None) => return Ok(Found::default()),
            Err(error) => return Ok(Found::without(format!("cannot read {path}: {error}"))),
        };
        Self::find_in(&text, path.as_str(), registry, wanted).await
    }

    /// Searches a Docker configuration text, which was read from `path`.
    async fn find_in(text: &str, path: &str, registry: &str, wanted: &str) -> Result<Found, Error> {
        // The parser's message may quote the line, and with it a secret: only report the position.
        let config: Config = match serde_json::from_str(text.trim_start_matches('\u{feff}')) {
            Ok(config) => config,
            Err(error) => {
                let (line, column) = (error.line(), error.column());
                let reason = format!("{path}: line {line}, column {column}: expected Docker's config.json");
                return Ok(Found::without(reason));
            }
        };
        let mut trouble = None;
        let helpers = config.cred_helpers.unwrap_or_default();
        let own = best(&helpers, wanted).map(|helper| helper.clone().unwrap_or_default());
        if let Some(helper) = own.or(config.creds_store).filter(|helper| !helper.is_empty()) {
            let quoted = format!("\"{helper}\"");
            let line = text.lines().position(|line| line.contains(&quoted)).map_or(1, |line| line + 1);
            for name in names(registry, wanted) {
                match ask(&helper, name).await {
                    Ok(Some(account)) => {
                        let account = complete(registry, &format!("docker-credential-{helper}"), account)?;
                        return Ok(Found { account: Some(account), trouble: None });
                    }
                    Ok(None) => {}
                    Err(reason) => {
                        trouble = Some(format!("docker-credential-{helper} (named by {path}, line {line}): {reason}"));
                        break;
                    }
                }
            }
        }
        let auths = config.auths.unwrap_or_default();
        let Some(entry) = best(&auths, wanted) else { return Ok(Found { account: None, trouble }) };
        let broken = |reason: &str| Error::new(Kind::Auth, format!("{path}: {registry}: {reason}"));
        let entry: Option<Entry> =
            serde_json::from_value(entry.clone()).map_err(|_| broken("is not an account in Docker's format"))?;
        match entry.unwrap_or_default().account().map_err(broken)? {
            Some(account) => Ok(Found { account: Some(complete(registry, path, account)?), trouble: None }),
            None => Ok(Found { account: None, trouble }),
        }
    }
}

impl Found {
    fn without(trouble: String) -> Self {
        Self { account: None, trouble: Some(trouble) }
    }
}

/// `None`: the file does not exist.
fn read_file(path: &Utf8Path) -> std::io::Result<Option<String>> {
    use std::io::Read as _;
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut text = String::new();
    file.take(MOST).read_to_string(&mut text)?;
    Ok(Some(text))
}

/// The host of a name in `config.json`, as Docker's client compares them (`ConvertToHostname`):
/// without scheme and path. In addition lower-cased, without the scheme's default port, and with
/// one name for Docker Hub.
pub(crate) fn host_of(name: &str) -> String {
    let name = name.trim().to_ascii_lowercase();
    let (port, rest) = match name.split_once("://") {
        Some(("http", rest)) => (":80", rest),
        Some((_, rest)) => (":443", rest),
        None => (":443", name.as_str()),
    };
    let host = rest.split('/').next().unwrap_or_default();
    let host = host.strip_suffix(port).unwrap_or(host);
    if is_docker_hub(host) { DOCKER_HUB.to_owned() } else { host.to_owned() }
}

/// The entry for this host: Docker's own name for Docker Hub before others, and keys without a path
/// before keys with one.
pub(crate) fn best<'a, T>(entries: &'a BTreeMap<String, T>, wanted: &str) -> Option<&'a T> {
    let rank = |name: &str| {
        let rest = name.split_once("://").map_or(name, |(_, rest)| rest).trim_end_matches('/');
        (name != HUB_KEY && name != wanted, rest.contains('/'), name.len())
    };
    let of_it = entries.iter().filter(|(name, _)| host_of(name) == wanted);
    of_it.min_by_key(|(name, _)| rank(name)).map(|(_, entry)| entry)
}

/// The names under which a helper may know it.
fn names<'a>(registry: &'a str, wanted: &str) -> Vec<&'a str> {
    if wanted == DOCKER_HUB { vec![HUB_KEY, "index.docker.io", DOCKER_HUB] } else { vec![registry] }
}

impl Entry {
    pub(crate) fn account(&self) -> Result<Option<Credential>, &'static str> {
        if let Some(token) = self.identitytoken.as_ref().filter(|token| !token.is_empty()) {
            return Ok(Some(Credential::IdentityToken(token.clone())));
        }
        if let Some(auth) = self.auth.as_ref().filter(|auth| !auth.is_empty()) {
            let wrong = "its \"auth\" is not the base64 of user:password";
            let decoded = STANDARD.decode(auth.trim()).map_err(|_| wrong)?;
            let decoded = String::from_utf8(decoded).map_err(|_| wrong)?;
            let (username, password) = decoded.trim_end_matches('\0').split_once(':').ok_or(wrong)?;
            return Ok(Some(Credential::Password { username: username.to_owned(), password: password.to_owned() }));
        }
        let (Some(username), Some(password)) = (&self.username, &self.password) else { return Ok(None) };
        Ok(Some(Credential::Password { username: username.clone(), password: password.clone() }))
    }
}

fn complete(registry: &str, origin: &str, account: Credential) -> Result<Credential, Error> {
    let empty = match &account {
        Credential::Password { username, password } => username.trim().is_empty() || password.trim().is_empty(),
        Credential::IdentityToken(token) => token.trim().is_empty(),
    };
    if empty {
        return Err(Error::new(Kind::Auth, format!("{registry}: the account from {origin} is empty")));
    }
    Ok(account)
}

/// `docker-credential-NAME get`: the registry on stdin, JSON on stdout
/// (<https://github.com/docker/docker-credential-helpers>). Errors are reported in the helper's own
/// words.
async fn ask(helper: &str, registry: &str) -> Result<Option<Credential>, String> {
    if helper.contains(['/', '\\']) {
        return Err("is a path, not the suffix of a program's name".to_owned());
    }
    let mut child = tokio::process::Command::new(format!("docker-credential-{helper}"))
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => "there is no such program on PATH".to_owned(),
            _ => error.to_string(),
        })?;
    let (input, output, errors) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let spoken = async {
        if let Some(mut input) = input {
            // A helper that does not read its input has already answered.
            let _ = input.write_all(format!("{registry}\n").as_bytes()).await;
        }
        let (output, errors) = futures_util::future::join(read(output), read(errors)).await;
        Ok::<_, std::io::Error>((child.wait().await?, output?, errors?))
    };
    let (status, output, errors) = match tokio::time::timeout(HELPER_TIMEOUT, spoken).await {
        Ok(spoken) => spoken.map_err(|error| error.to_string())?,
        Err(_) => return Err(format!("no answer within {} s", HELPER_TIMEOUT.as_secs())),
    };
    if !status.success() {
        let said = [output, errors].map(|bytes| words(&bytes));
        // The only message that the protocol defines.
        if said.iter().any(|said| said.contains("credentials not found")) {
            return Ok(None);
        }
        let said = said.iter().find(|said| !said.is_empty()).map_or("it printed nothing", String::as_str);
        return Err(format!("{status}: {said}"));
    }
    let helped: Helped =
        serde_json::from_slice(&output).map_err(|_| "its answer is not the JSON expected".to_owned())?;
    Ok(match (helped.username.as_str(), helped.secret.as_str()) {
        ("", "") => None,
        ("<token>", _) => Some(Credential::IdentityToken(helped.secret)),
        _ => Some(Credential::Password { username: helped.username, password: helped.secret }),
    })
}

/// Reads to the end, or up to the limit.
async fn read(from: Option<impl AsyncRead + Unpin>) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(from) = from {
        from.take(MOST).read_to_end(&mut bytes).await?;
    }
    Ok(bytes)
}

/// A helper's output as one line.
fn words(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let line = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    line.chars().filter(|c| !c.is_control()).take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(username: &str, password: &str) -> Credential {
        Credential::Password { username: username.to_owned(), password: password.to_owned() }
    }

    async fn found(config: &str, registry: &str) -> Result<Found, Error> {
        let folder = tempfile::tempdir().unwrap();
        let path = Utf8PathBuf::from_path_buf(folder.path().join("config.json")).unwrap();
        std::fs::write(&path, config).unwrap();
        Credentials { docker_config: Some(path), ..Credentials::default() }.find(registry).await
    }

    async fn find(config: &str, registry: &str) -> Option<Credential> {
        let found = found(config, registry).await.unwrap();
        assert_eq!(found.trouble, None, "{config}");
        found.account
    }

    #[tokio::test]
    async fn docker_s_file_is_read_in_each_of_its_forms() {
        let auth = STANDARD.encode("anna:s3cret:with:colons");
        let config = format!(r#"{{"auths":{{"https://index.docker.io/v1/":{{"auth":"{auth}"}}}}}}"#);
        assert_eq!(find(&config, "docker.io").await, Some(password("anna", "s3cret:with:colons")));
        assert_eq!(find(&config, "quay.io").await, None);
        let plain = r#"{"auths":{"quay.io":{"username":"u","password":"p"}}}"#;
        assert_eq!(find(plain, "quay.io").await, Some(password("u", "p")));
        let token = r#"{"auths":{"x.azurecr.io":{"auth":"MDAwMDo=","identitytoken":"t"}}}"#;
        assert_eq!(find(token, "x.azurecr.io").await, Some(Credential::IdentityToken("t".into())));
        for none in [
            "{}",
            r#"{"auths":{"docker.io":{}}}"#,
            r#"{"auths":null,"credHelpers":null,"credsStore":null}"#,
            r#"{"auths":{"docker.io":null}}"#,
            r#"{"auths":{"docker.io":{"auth":""}}}"#,
            r#"{"auths":{"docker.io":{"auth":null,"email":5}},"credsStore":""}"#,
            r#"{"auths":{"quay.io":{"auth":7}}}"#,
            r#"{"credHelpers":{"docker.io":""},"credsStore":"nobody-has-this-one"}"#,
            "\u{feff}{}",
        ] {
            assert_eq!(find(none, "docker.io").await, None, "{none}");
        }
    }

    /// As `docker login` and others have written them over the years.
    #[tokio::test]
    async fn a_registry_is_found_by_its_host_however_it_is_written() {
        let entry = r#"{"username":"u","password":"p"}"#;
        for (key, registry) in [
            ("https://index.docker.io/v1/", "docker.io"),
            ("index.docker.io", "docker.io"),
            ("docker.io", "docker.io"),
            ("https://registry-1.docker.io/v2/", "docker.io"),
            ("https://index.docker.io/v1/", "registry-1.docker.io"),
            ("https://quay.io", "quay.io"),
            ("https://quay.io/", "quay.io"),
            ("https://quay.io/v2/", "quay.io"),
            ("http://quay.io/v1/", "quay.io"),
            ("quay.io/", "quay.io"),
            ("quay.io/team", "quay.io"),
            ("quay.io:443", "quay.io"),
            ("Quay.IO", "quay.io"),
            ("quay.io", "quay.io:443"),
            ("https://reg.example:5000", "reg.example:5000"),
            ("http://reg.example:5000/v2/", "reg.example:5000"),
        ] {
            let config = format!(r#"{{"auths":{{"{key}":{entry}}}}}"#);
            assert_eq!(find(&config, registry).await, Some(password("u", "p")), "{key} for {registry}");
        }
        for (key, registry) in [
            ("reg.example", "reg.example:5000"),
            ("reg.example:5000", "reg.example:5001"),
            ("reg.example:5000", "reg.example"),
            ("notquay.io", "quay.io"),
            ("quay.io.evil.example", "quay.io"),
            ("https://evil.example/quay.io", "quay.io"),
        ] {
            let config = format!(r#"{{"auths":{{"{key}":{entry}}}}}"#);
            assert_eq!(find(&config, registry).await, None, "{key} for {registry}");
        }
        // The exact match wins.
        let both = r#"{"auths":{"a.quay.io":{"username":"0","password":"0"},"https://quay.io/other":{"username":"1","password":"1"},"quay.io":{"username":"2","password":"2"}}}"#;
        assert_eq!(find(both, "quay.io").await, Some(password("2", "2")));
    }

    #[tokio::test]
    async fn an_account_that_is_broken_or_empty_is_an_error_and_never_becomes_anonymous() {
        let cases = [
            (r#"{"auths":{"quay.io":{"auth":"%%%"}}}"#, "base64"),
            (r#"{"auths":{"quay.io":{"auth":"Og=="}}}"#, "is empty"),
            (r#"{"auths":{"quay.io":{"auth":7}}}"#, "not an account"),
        ];
        for (config, expected) in cases {
            let error = found(config, "quay.io").await.unwrap_err();
            assert_eq!(error.kind(), Kind::Auth);
            assert!(error.to_string().contains(expected), "{error}");
        }
    }

    /// It is then unknown whether there is an account, which is reported with the line.
    #[tokio::test]
    async fn what_cannot_be_asked_is_told_with_its_line() {
        let cases = [
            (r#"{"auths":"#, "line 1, column"),
            ("{\n  \"credsStore\": \"nobody-has-this-one\"\n}", "line 2): there is no such program on PATH"),
            (
                "{\n\n  \"credHelpers\": {\"https://quay.io/\": \"nobody-has-this-one\"}\n}",
                "line 3): there is no such program on PATH",
            ),
            (r#"{"credsStore":"../../bin/sh"}"#, "is a path"),
        ];
        for (config, expected) in cases {
            let found = found(config, "quay.io").await.unwrap();
            let trouble = found.trouble.unwrap();
            assert!(found.account.is_none() && trouble.contains(expected), "{trouble}");
        }
        // Entries in the file itself are still found.
        let both = r#"{"credsStore":"nobody-has-this-one","auths":{"quay.io":{"username":"u","password":"p"}}}"#;
        assert_eq!(find(both, "quay.io").await, Some(password("u", "p")));
    }

    #[tokio::test]
    async fn what_a_job_is_handed_comes_before_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = Utf8PathBuf::from_path_buf(folder.path().join("config.json")).unwrap();
        std::fs::write(
            &path,
            r#"{"auths":{"a.example":{"username":"f","password":"p"},"b.example":{"username":"f","password":"p"}}}"#,
        )
        .unwrap();
        let with = |text: &str| Credentials {
            docker_config: Some(path.clone()),
            docker_auth_config: Some(AuthConfig(text.to_owned())),
            ..Credentials::default()
        };
        let handed = with(r#"{"auths":{"a.example":{"username":"e","password":"s3cret"}}}"#);
        assert_eq!(handed.find("a.example").await.unwrap().account, Some(password("e", "s3cret")));
        assert_eq!(handed.find("b.example").await.unwrap().account, Some(password("f", "p")));
        assert!(!format!("{handed:?}").contains("s3cret"));
        for empty in ["", " "] {
            let found = with(empty).find("c.example").await.unwrap();
            assert_eq!(found, Found::default());
        }
        let broken = with(r#"{"auths": s3cret"#).find("c.example").await.unwrap().trouble.unwrap();
        assert!(broken.starts_with("DOCKER_AUTH_CONFIG: line 1") && !broken.contains("s3cret"), "{broken}");
        assert_eq!(with("{").find("b.example").await.unwrap().account, Some(password("f", "p")));
    }

    #[tokio::test]
    async fn a_secret_is_in_no_message() {
        let found = found(r#"{"auths":{"quay.io":{"password":"s3cret" "#, "quay.io").await.unwrap();
        assert!(found.trouble.is_some() && !format!("{found:?}").contains("s3cret"));
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
