//! The devcontainers CLI, with which editors start a devcontainer.

use std::process::{Command, Stdio};

use super::{installed, plain, root, text};

/// The CLI of `tests/lint/devcontainers`, installed by npm.
pub fn cli() -> Command {
    let list = root().join("tests/lint/devcontainers");
    let folder = installed("node/devcontainers", &list.join("package-lock.json"), |folder| {
        std::fs::create_dir(folder).unwrap();
        for file in ["package.json", "package-lock.json"] {
            std::fs::copy(list.join(file), folder.join(file)).unwrap();
        }
        let mut npm = Command::new("npm");
        npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]).current_dir(folder).stdin(Stdio::null());
        let installed = npm.output().expect("npm and Node.js 20 or newer");
        assert!(installed.status.success(), "{}", text(&installed));
    });
    let mut command = plain("node");
    command.arg(folder.join("node_modules/@devcontainers/cli/devcontainer.js")).current_dir(root());
    command
}
