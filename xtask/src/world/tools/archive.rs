//! Where a project publishes a tool's binaries: the URLs of its release archives and of its own
//! checksum files, from `infra/tools/tools.yaml`.

use serde::Deserialize;

use crate::world::tools::checksums::Form;

/// With `{version}` (`v1.2.3`), `{number}` (`1.2.3`), `{os}` and `{arch}` in Go's terms.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Template {
    url: String,
    /// The binary's path within a `.tar.gz`; without one the file is the binary itself.
    member: Option<String>,
    checksums: Checksums,
}

#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
struct Checksums {
    /// Also with `{url}`, the archive's own.
    url: String,
    form: Form,
}

/// The archive of one version for one platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Archive {
    pub tool: String,
    pub version: String,
    /// `os/arch`, in Go's terms.
    pub platform: String,
    pub url: String,
    pub member: Option<String>,
    pub checksums: String,
    pub form: Form,
}

impl Template {
    /// # Errors
    /// What is malformed, as the end of a sentence that names the file.
    pub fn fill(&self, tool: &str, version: &str, platform: &str) -> Result<Archive, String> {
        let parts = platform.split_once('/').filter(|(os, arch)| is_word(os) && is_word(arch));
        let (os, arch) = parts.ok_or_else(|| format!("platforms: {platform:?}: expected OS/ARCH"))?;
        let fill = |field: &str, text: &str, url: &str| {
            let number = version.trim_start_matches('v');
            let filled = [("version", version), ("number", number), ("os", os), ("arch", arch), ("url", url)]
                .into_iter()
                .filter(|(_, value)| !value.is_empty())
                .fold(text.to_owned(), |text, (name, value)| text.replace(&format!("{{{name}}}"), value));
            match filled.contains(['{', '}']) {
                true => Err(format!(
                    "tools.{tool}.archive.{field}: {text:?}: expected no other names in braces than version, number, os, arch, and url for checksums"
                )),
                false => Ok(filled),
            }
        };
        let url = fill("url", &self.url, "")?;
        Ok(Archive {
            tool: tool.to_owned(),
            version: version.to_owned(),
            platform: platform.to_owned(),
            member: self.member.as_deref().map(|member| fill("member", member, "")).transpose()?,
            checksums: fill("checksums.url", &self.checksums.url, &url)?,
            form: self.checksums.form,
            url,
        })
    }
}

impl Archive {
    /// Its file name, which checksum files use.
    pub fn name(&self) -> &str {
        let path = self.url.split(['?', '#']).next().unwrap_or_default();
        path.rsplit('/').next().unwrap_or_default()
    }
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// This machine's platform, in Go's terms.
pub fn here() -> String {
    let os = match std::env::consts::OS {
        "macos" => "darwin",
        other => other,
    };
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    format!("{os}/{arch}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(url: &str, member: Option<&str>, checksums: &str) -> Template {
        let checksums = Checksums { url: checksums.to_owned(), form: Form::Named };
        Template { url: url.to_owned(), member: member.map(str::to_owned), checksums }
    }

    #[test]
    fn names_are_filled_in() {
        let template = template("https://x/{version}/t_{number}_{os}_{arch}.tgz", Some("{os}-{arch}/t"), "{url}.sum");
        let archive = template.fill("t", "v1.2.3", "darwin/arm64").unwrap();
        assert_eq!(archive.url, "https://x/v1.2.3/t_1.2.3_darwin_arm64.tgz");
        assert_eq!(archive.checksums, "https://x/v1.2.3/t_1.2.3_darwin_arm64.tgz.sum");
        assert_eq!((archive.member.as_deref(), archive.name()), (Some("darwin-arm64/t"), "t_1.2.3_darwin_arm64.tgz"));
    }

    #[test]
    fn what_is_mistyped_is_named() {
        let good = template("https://x/{version}", None, "{url}.sum");
        for platform in ["linux", "linux/", "/amd64", "linux/amd64/v2", "../x"] {
            assert!(good.fill("t", "v1", platform).unwrap_err().contains("OS/ARCH"), "{platform}");
        }
        for (template, field) in [
            (template("https://x/{verzion}", None, "x"), "tools.t.archive.url"),
            (template("https://x/{url}", None, "x"), "tools.t.archive.url"),
            (template("https://x", Some("{x}/t"), "x"), "tools.t.archive.member"),
            (template("https://x", None, "{file}"), "tools.t.archive.checksums.url"),
        ] {
            assert!(template.fill("t", "v1", "linux/amd64").unwrap_err().contains(field), "{field}");
        }
    }
}
