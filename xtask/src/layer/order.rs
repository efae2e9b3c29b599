//! Which of a run's layers may run in parallel. Only layers.yaml counts: the layers that one needs
//! or goes after, and those that create its namespaces. Nothing is run here.

use std::collections::BTreeSet;

use crate::repo::layers::Layer;
use crate::repo::needs::LayerNeeds;

/// For each of these layers, the indexes of earlier ones in the list that it waits for: what it
/// needs or goes after, also through layers that are not in the list. A layer that layers.yaml does
/// not name waits for all of them. Later layers are never waited for, so there can be no cycle; the
/// layer's own check finds a missing one.
pub(crate) fn edges(all: &[Layer], needs: &LayerNeeds) -> Vec<BTreeSet<usize>> {
    let names: Vec<String> = all.iter().map(Layer::name).collect();
    let of = |(index, name): (usize, &String)| {
        if !needs.layers.contains_key(name) {
            return (0..index).collect();
        }
        let first = first_of(name, needs);
        (0..index).filter(|before| first.contains(names[*before].as_str())).collect()
    };
    names.iter().enumerate().map(of).collect()
}

/// All layers that go before this one, directly or indirectly.
fn first_of<'a>(layer: &'a str, needs: &'a LayerNeeds) -> BTreeSet<&'a str> {
    let (mut found, mut open) = (BTreeSet::new(), vec![layer]);
    while let Some(next) = open.pop() {
        for before in needs.before(next) {
            if found.insert(before) {
                open.push(before);
            }
        }
    }
    found
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    Waiting,
    Working,
    Done,
    Failed,
}

/// The progress of each layer of a run.
#[derive(Debug)]
pub(crate) struct Schedule {
    edges: Vec<BTreeSet<usize>>,
    progress: Vec<Progress>,
    /// Whether layers that do not need a failed one are started all the same.
    keep_going: bool,
}

impl Schedule {
    pub fn new(edges: Vec<BTreeSet<usize>>, keep_going: bool) -> Self {
        let progress = vec![Progress::Waiting; edges.len()];
        Self { edges, progress, keep_going }
    }

    /// The next layer to run, which counts as in progress from now on; `None` if none may be
    /// started yet, or any more.
    pub fn start(&mut self) -> Option<usize> {
        if !self.keep_going && self.progress.contains(&Progress::Failed) {
            return None;
        }
        let is_ready = |index: &usize| {
            self.progress[*index] == Progress::Waiting
                && self.edges[*index].iter().all(|before| self.progress[*before] == Progress::Done)
        };
        let next = (0..self.edges.len()).find(is_ready)?;
        self.progress[next] = Progress::Working;
        Some(next)
    }

    pub fn ended(&mut self, index: usize, well: bool) {
        self.progress[index] = if well { Progress::Done } else { Progress::Failed };
    }

    /// How many are in progress.
    pub fn working(&self) -> usize {
        self.progress.iter().filter(|progress| **progress == Progress::Working).count()
    }

    /// Those that were never started, each with the first one that it needs and that is not in
    /// place; `None` if there is no such layer.
    pub fn left(&self) -> Vec<(usize, Option<usize>)> {
        let waiting = (0..self.edges.len()).filter(|index| self.progress[*index] == Progress::Waiting);
        let missing =
            |index: usize| self.edges[index].iter().copied().find(|before| self.progress[*before] != Progress::Done);
        waiting.map(|index| (index, missing(index))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layers(names: &[&str]) -> Vec<Layer> {
        let layer = |name: &&str| {
            let (number, stage) = name.split_once('-').unwrap();
            Layer { number: number.parse().unwrap(), stage: stage.to_owned(), path: format!("{name}.yaml").into() }
        };
        names.iter().map(layer).collect()
    }

    fn needs(text: &str) -> LayerNeeds {
        LayerNeeds::parse("layers.yaml".into(), &format!("criticalPath: []\nlayers: {{{text}}}")).unwrap()
    }

    #[test]
    fn only_what_is_written_down_is_waited_for_and_of_a_layer_that_is_not_everything() {
        let all = layers(&["10-a", "20-b", "30-c", "40-d"]);
        for (text, expected) in [
            ("10-a: {}, 20-b: {}, 30-c: {layers: [10-a]}, 40-d: {layers: [10-a, 20-b]}", [&[][..], &[], &[0], &[0, 1]]),
            ("10-a: {creates: [x]}, 20-b: {namespaces: [x]}, 30-c: {}, 40-d: {}", [&[], &[0], &[], &[]]),
            ("10-a: {}, 20-b: {}, 30-c: {after: [20-b]}, 40-d: {}", [&[], &[], &[1], &[]]),
            // Through a layer that is not in this run.
            ("10-a: {}, 15-x: {layers: [10-a]}, 20-b: {layers: [15-x]}, 30-c: {}, 40-d: {}", [&[], &[0], &[], &[]]),
            // 20-b needs a later one, which its own check will find missing.
            ("10-a: {}, 20-b: {layers: [30-c]}, 30-c: {layers: [20-b]}, 40-d: {}", [&[], &[], &[1], &[]]),
            ("10-a: {}, 20-b: {layers: [99-z]}", [&[], &[], &[0, 1], &[0, 1, 2]]),
        ] {
            let found: Vec<Vec<usize>> =
                edges(&all, &needs(text)).into_iter().map(|edges| edges.into_iter().collect()).collect();
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn the_critical_path_of_the_tree_has_two_layers_that_stand_beside_each_other() {
        let tree = crate::repo::Tree::discover(camino::Utf8Path::new(env!("CARGO_MANIFEST_DIR"))).unwrap();
        let all = crate::repo::layers::select(&tree.layers().unwrap(), &tree.layer_needs().unwrap().critical_path);
        let edges = edges(&all.unwrap(), &tree.layer_needs().unwrap());
        assert!(edges[1..].iter().all(|needed| needed.contains(&0)), "all need the namespaces: {edges:?}");
        assert_eq!(edges[2], edges[3], "24-auth and 40-data-plane: {edges:?}");
    }

    #[test]
    fn after_a_failure_nothing_is_started_unless_the_run_is_to_keep_going() {
        let diamond = || vec![BTreeSet::new(), BTreeSet::from([0]), BTreeSet::from([0]), BTreeSet::from([1])];
        for (keep_going, then) in [(false, None), (true, Some(2))] {
            let mut schedule = Schedule::new(diamond(), keep_going);
            assert_eq!((schedule.start(), schedule.start()), (Some(0), None));
            schedule.ended(0, true);
            assert_eq!(schedule.start(), Some(1));
            schedule.ended(1, false);
            assert_eq!(schedule.start(), then);
            if then.is_some() {
                assert_eq!(schedule.working(), 1);
                schedule.ended(2, true);
                assert_eq!(schedule.left(), [(3, Some(1))]);
            } else {
                assert_eq!(schedule.left(), [(2, None), (3, Some(1))]);
            }
            assert_eq!(schedule.start(), None);
        }
    }
}
