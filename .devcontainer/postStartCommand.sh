#!/usr/bin/env bash
# Starts the stopped cluster again when the devcontainer starts, and waits for
# what runs on it. Nothing is recreated here: that would ask first.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
{ cargo xtask cluster && cargo xtask checklist --wait 3m; } 2>&1 | tee -a "$HOME/.devcontainer-setup.log"
