#!/usr/bin/env bash
# Starts the stopped cluster again when the devcontainer starts.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
cargo xtask cluster --yes
