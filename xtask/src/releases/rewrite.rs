//! One write to a stored release, which is refused if anybody else has written it.

use std::io::Write;

use camino::Utf8Path;
use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use kube::api::{Api, PostParams};

use crate::run::Run;
use crate::world::helm_storage::{self, Revision};
use crate::world::kubernetes::write_failed;
use run_record::{Code, Failure};

/// Changes the Secret of a revision, in one write that the API server refuses if anybody else wrote
/// in between. A copy of the original is kept in this run's folder. `edit` returns whether there is
/// anything to write.
///
/// # Errors
/// `release-owned` if somebody wrote it since the revision was read; `release-pending` if `edit`
/// cannot change it; errors from reading and writing.
pub(super) async fn rewrite(
    run: &Run,
    client: &Client,
    revision: &Revision,
    edit: impl FnOnce(&mut Secret) -> Result<bool, String>,
) -> Result<(), Failure> {
    let original = helm_storage::secret(client, revision).await?;
    if original.metadata.resource_version != revision.resource_version {
        return Err(changed(revision));
    }
    let mut secret = original.clone();
    if !edit(&mut secret).map_err(|error| helm_storage::unreadable(revision, error))? {
        return Ok(());
    }
    keep_copy(run, &original, revision)?;
    let api = Api::<Secret>::namespaced(client.clone(), &revision.namespace);
    match api.replace(&revision.secret, &PostParams::default(), &secret).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 409 => Err(changed(revision)),
        Err(error) => Err(write_failed(&format!("the Secret {}/{}", revision.namespace, revision.secret), error)),
    }
}

pub(super) fn changed(revision: &Revision) -> Failure {
    Failure::new(Code::ReleaseOwned, format!("release {} changed while it was looked at", revision.release))
        .remedy("run it again")
}

/// Saves the original Secret in this run's folder, readable by this user only. What this run has
/// written since is not the original.
fn keep_copy(run: &Run, secret: &Secret, revision: &Revision) -> Result<(), Failure> {
    let path = run.dir.join(format!("{}.{}.json", revision.namespace, revision.secret));
    let write = || write_once(&path, serde_json::to_string(secret)?.as_bytes());
    write()
        .map_err(|error| Failure::new(Code::DiskFull, format!("cannot keep a copy of the Secret in {path}: {error}")))
}

fn write_once(path: &Utf8Path, content: &[u8]) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = match std::fs::File::options().create_new(true).write(true).mode(0o600).open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => return Ok(()),
        file => file?,
    };
    // A part of it is no copy.
    file.write_all(content).inspect_err(|_| drop(std::fs::remove_file(path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_there_first_stays_the_copy() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = camino::Utf8PathBuf::from_path_buf(folder.path().join("copy.json")).unwrap();
        write_once(&path, b"the original").unwrap();
        write_once(&path, b"what this run made of it").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "the original");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
