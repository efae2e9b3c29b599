#!/usr/bin/env bash
# Starts the stopped cluster again when the devcontainer starts, and waits for
# what runs on it. Nothing is recreated here: that would ask first.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/log.sh"
begin postStartCommand.sh
code=0
logged cargo xtask cluster || code=$?
((code)) || logged cargo xtask checklist --wait 3m || code=$?
conclude postStartCommand.sh "$code"
exit "$code"
