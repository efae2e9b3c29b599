//! Taking a deleted cluster's entries out of the kubeconfig. k3d does it when it
//! deletes a cluster, but not for one whose containers somebody else removed.

use camino::Utf8PathBuf;
use serde_json::Value;

use crate::exit::{Exit, Failure};
use crate::state::{env_path, write_atomically};

/// Removes the context, cluster and user that k3d made for this cluster, from every
/// file of `KUBECONFIG`, else from `~/.kube/config`. Returns whether any was there.
///
/// # Errors
/// A file that names the cluster and cannot be rewritten; it is left as it was.
pub fn forget(cluster: &str) -> Result<bool, Failure> {
    let mut found = false;
    for path in files() {
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        let failed = |error: String| {
            Failure::new(
                "state-unwritable",
                Exit::Unclassified,
                format!("cannot take {cluster} out of {path}: {error}"),
            )
            .remedy(format!("kubectl config delete-context k3d-{cluster}"))
        };
        // Nearly always k3d has done it, and then the file is not touched.
        if !text.contains(&format!("k3d-{cluster}")) {
            continue;
        }
        let Some(rest) = without(&text, cluster).map_err(failed)? else { continue };
        // A link stays one: what it points at is rewritten. The new file is for its owner only.
        let target = path.canonicalize_utf8().unwrap_or(path.clone());
        write_atomically(&target, rest.as_bytes()).map_err(|error| failed(error.to_string()))?;
        found = true;
    }
    Ok(found)
}

fn files() -> Vec<Utf8PathBuf> {
    match std::env::var("KUBECONFIG") {
        Ok(list) if !list.is_empty() => list.split(':').filter(|path| !path.is_empty()).map(Into::into).collect(),
        _ => env_path("HOME").map(|home| home.join(".kube/config")).into_iter().collect(),
    }
}

/// Sets the server of the cluster's entry, wherever k3d has written it.
///
/// # Errors
/// A file that names the cluster and cannot be rewritten.
pub fn point_at(cluster: &str, server: &str) -> Result<(), Failure> {
    for path in files() {
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        let failed = |error: String| {
            let message = format!("cannot set the server of k3d-{cluster} in {path}: {error}");
            Failure::new("state-unwritable", Exit::Unclassified, message)
        };
        let Some(changed) = with_server(&text, cluster, server).map_err(failed)? else { continue };
        let target = path.canonicalize_utf8().unwrap_or(path.clone());
        write_atomically(&target, changed.as_bytes()).map_err(|error| failed(error.to_string()))?;
    }
    Ok(())
}

/// The file with another server; none when it has no such cluster, or that server already.
fn with_server(text: &str, cluster: &str, server: &str) -> Result<Option<String>, String> {
    let mut config: Value = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
    let name = format!("k3d-{cluster}");
    let clusters = config.get_mut("clusters").and_then(Value::as_array_mut);
    let entry = clusters.into_iter().flatten().find(|entry| entry.get("name").and_then(Value::as_str) == Some(&name));
    match entry.and_then(|entry| entry.get_mut("cluster")).and_then(|cluster| cluster.get_mut("server")) {
        Some(current) if current != server => *current = Value::from(server),
        _ => return Ok(None),
    }
    serde_saphyr::to_string(&config).map(Some).map_err(|error| error.to_string())
}

/// The file without the cluster's entries; none when it has none of them. Fields
/// that are not known here stay.
fn without(text: &str, cluster: &str) -> Result<Option<String>, String> {
    let mut config: Value = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
    let context = format!("k3d-{cluster}");
    let mut removed = false;
    for (list, name) in [("contexts", &context), ("clusters", &context), ("users", &format!("admin@{context}"))] {
        if let Some(entries) = config.get_mut(list).and_then(Value::as_array_mut) {
            let before = entries.len();
            entries.retain(|entry| entry.get("name").and_then(Value::as_str) != Some(name));
            removed |= entries.len() < before;
        }
    }
    if config.get("current-context").and_then(Value::as_str) == Some(&context) {
        config["current-context"] = Value::from("");
        removed = true;
    }
    if !removed {
        return Ok(None);
    }
    serde_saphyr::to_string(&config).map(Some).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = "apiVersion: v1\nkind: Config\ncurrent-context: k3d-ameide-ci\nclusters:\n- name: k3d-ameide-ci\n  cluster: {server: 'https://127.0.0.1:6551'}\n- name: other\n  cluster: {server: 'https://x', proxy-url: 'http://p', new-field: [1, 2]}\ncontexts:\n- name: k3d-ameide-ci\n  context: {cluster: k3d-ameide-ci, user: admin@k3d-ameide-ci}\n- name: other\n  context: {cluster: other, user: other}\nusers:\n- name: admin@k3d-ameide-ci\n  user: {token: a}\n- name: other\n  user: {token: b}\n";

    #[test]
    fn only_that_clusters_entries_go() {
        let rest: Value = serde_saphyr::from_str(&without(CONFIG, "ameide-ci").unwrap().unwrap()).unwrap();
        for list in ["clusters", "contexts", "users"] {
            let names: Vec<&Value> = rest[list].as_array().unwrap().iter().map(|entry| &entry["name"]).collect();
            assert_eq!(names, ["other"], "{list}");
        }
        assert_eq!(rest["clusters"][0]["cluster"]["new-field"], serde_json::json!([1, 2]));
        assert_eq!((&rest["current-context"], &rest["apiVersion"]), (&"".into(), &"v1".into()));
    }

    #[test]
    fn only_that_clusters_server_changes() {
        let changed = with_server(CONFIG, "ameide-ci", "https://k3d-ameide-ci-serverlb:6443").unwrap().unwrap();
        let before: Value = serde_saphyr::from_str(CONFIG).unwrap();
        let mut after: Value = serde_saphyr::from_str(&changed).unwrap();
        assert_eq!(after["clusters"][0]["cluster"]["server"], "https://k3d-ameide-ci-serverlb:6443");
        after["clusters"][0] = before["clusters"][0].clone();
        assert_eq!(after, before);
        assert_eq!(with_server(CONFIG, "ameide", "https://x").unwrap(), None);
    }

    #[test]
    fn a_file_that_names_another_cluster_is_left_alone() {
        assert_eq!(without(CONFIG, "ameide").unwrap(), None);
        assert!(without("contexts: [unclosed", "ameide").is_err());
    }
}
