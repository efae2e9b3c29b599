#!/usr/bin/env bash
# Brings the stack up when the devcontainer is made. The log has a pass or FAIL
# line for each checkpoint, and its last lines name what blocks.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
cargo xtask up --yes 2>&1 | tee "$HOME/.devcontainer-setup.log"
