//! The layers: Helmfile state files with a number and a name, and how they are selected.

use camino::{Utf8Path, Utf8PathBuf};
use run_record::Failure;

/// A Helmfile state file with its number and name, `45-data-plane-ext`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Layer {
    pub number: u32,
    /// Without the number: the value of the `stage` label.
    pub stage: String,
    pub path: Utf8PathBuf,
}

impl Layer {
    /// `None` for a file that is not meant to be a layer: its name does not start with a digit, or
    /// it is not YAML (Helmfile's `NN-name.lock`, what an editor leaves behind).
    ///
    /// # Errors
    /// A file that looks like a layer and would not be found by its own name.
    pub(crate) fn from_path(path: &Utf8Path) -> Result<Option<Self>, String> {
        let name = path.file_name().unwrap_or_default();
        let mut endings = name.rsplit('.').skip_while(|ending| *ending == "gotmpl");
        let is_yaml = endings.next().is_some_and(|ending| matches!(ending, "yaml" | "yml"));
        if !is_yaml || !name.starts_with(|c: char| c.is_ascii_digit()) {
            return Ok(None);
        }
        let stem = layer_stem(name).unwrap_or_default();
        let parts = stem.split_once('-').and_then(|(number, stage)| Some((number.parse().ok()?, stage.to_owned())));
        let layer = parts.map(|(number, stage)| Self { number, stage, path: path.to_owned() });
        match layer.filter(|layer| layer.name() == stem && !layer.stage.is_empty()) {
            Some(layer) => Ok(Some(layer)),
            None => Err("is not named like a layer: expected a name like 45-data-plane-ext.yaml".to_owned()),
        }
    }

    /// Number and stage: the value of the `layer` label.
    pub fn name(&self) -> String {
        format!("{:02}-{}", self.number, self.stage)
    }
}

fn layer_stem(file_name: &str) -> Option<&str> {
    [".yaml", ".yaml.gotmpl"].iter().find_map(|suffix| file_name.strip_suffix(suffix))
}

/// The layers that selectors name, ordered by number and each once.
///
/// A selector is a number (`45`), a stage (`data-plane-ext`), a full name
/// (`45-data-plane-ext`), a path, or a range of numbers (`10-45`).
pub fn select(layers: &[Layer], selectors: &[String]) -> Result<Vec<Layer>, Failure> {
    let mut selected: Vec<Layer> = Vec::new();
    for selector in selectors {
        let found = select_one(layers, selector);
        if found.is_empty() {
            let names: Vec<String> = layers.iter().map(Layer::name).collect();
            return Err(Failure::usage(format!("no layer {selector:?}: expected one of {}", names.join(", ")))
                .remedy("cargo xtask layer --list"));
        }
        selected.extend(found);
    }
    selected.sort();
    selected.dedup();
    Ok(selected)
}

/// Like [`select`], in the order of the selectors.
pub fn in_order(layers: &[Layer], selectors: &[String]) -> Result<Vec<Layer>, Failure> {
    let mut listed: Vec<Layer> = Vec::new();
    for selector in selectors {
        let found = select(layers, std::slice::from_ref(selector))?;
        listed.extend(found.into_iter().filter(|layer| !listed.contains(layer)).collect::<Vec<_>>());
    }
    Ok(listed)
}

fn select_one(layers: &[Layer], selector: &str) -> Vec<Layer> {
    let in_range = |range: std::ops::RangeInclusive<u32>| -> Vec<Layer> {
        layers.iter().filter(|layer| range.contains(&layer.number)).cloned().collect()
    };
    if let Ok(number) = selector.parse::<u32>() {
        return in_range(number..=number);
    }
    if let Some((from, to)) = selector.split_once('-')
        && let (Ok(from), Ok(to)) = (from.parse::<u32>(), to.parse::<u32>())
    {
        return in_range(from..=to);
    }
    let stem = Utf8Path::new(selector).file_name().map(|name| layer_stem(name).unwrap_or(name)).unwrap_or(selector);
    let matches = |layer: &&Layer| layer.stage == selector || layer.name() == stem;
    layers.iter().filter(matches).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layers() -> Vec<Layer> {
        ["10-bootstrap.yaml", "24-auth.yaml", "45-data-plane-ext.yaml", "60-qa.yaml"]
            .iter()
            .filter_map(|name| Layer::from_path(&Utf8Path::new("/r/infra/kubernetes/helmfiles").join(name)).unwrap())
            .collect()
    }

    fn names(selectors: &[&str]) -> Result<Vec<String>, Failure> {
        let selectors: Vec<String> = selectors.iter().map(|&s| s.to_owned()).collect();
        select(&layers(), &selectors).map(|found| found.iter().map(Layer::name).collect())
    }

    #[test]
    fn a_file_that_looks_like_a_layer_is_found_by_its_own_name_or_refused() {
        for name in ["10-a.yaml", "10-a.yaml.gotmpl", "123-a-b.yaml"] {
            let layer = Layer::from_path(name.into()).unwrap().unwrap();
            assert_eq!(select(std::slice::from_ref(&layer), &[name.to_owned()]).unwrap(), [layer], "{name}");
        }
        for name in
            ["045-a.yaml", "5-a.yaml", "51-.yaml", "52-x.yml", "52-x.yml.gotmpl", "99999999999-x.yaml", "53.yaml"]
        {
            let error = Layer::from_path(name.into()).unwrap_err();
            assert!(error.contains("45-data-plane-ext.yaml"), "{name}: {error}");
        }
        for name in ["_x.tpl", "common.yaml", "10-a.lock", "10-a.yaml~", ".#10-a.yaml", "README"] {
            assert_eq!(Layer::from_path(name.into()), Ok(None), "{name}");
        }
    }

    #[test]
    fn every_form_of_selector_finds_its_layer() {
        let forms = [
            "45",
            "data-plane-ext",
            "45-data-plane-ext",
            "infra/kubernetes/helmfiles/45-data-plane-ext.yaml",
            "./45-data-plane-ext.yaml",
        ];
        for form in forms {
            assert_eq!(names(&[form]).unwrap(), ["45-data-plane-ext"], "{form}");
        }
    }

    #[test]
    fn a_range_holds_both_ends_and_only_what_exists() {
        assert_eq!(names(&["10-45"]).unwrap(), ["10-bootstrap", "24-auth", "45-data-plane-ext"]);
    }

    #[test]
    fn layers_are_in_order_and_each_once() {
        assert_eq!(names(&["60", "10-24", "auth"]).unwrap(), ["10-bootstrap", "24-auth", "60-qa"]);
    }

    #[test]
    fn an_unknown_layer_is_named_with_what_there_is() {
        for unknown in ["99", "data", "46-data-plane-ext", "50-40", ""] {
            let error = names(&[unknown]).unwrap_err().message;
            assert!(error.contains(&format!("{unknown:?}")) && error.contains("24-auth"), "{error}");
        }
    }
}
