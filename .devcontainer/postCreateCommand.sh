#!/usr/bin/env bash
# Brings the stack up when the devcontainer is made. The log has a pass or FAIL
# line for each checkpoint, and its last lines name what blocks.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/log.sh"
begin postCreateCommand.sh
code=0
logged cargo xtask up --yes || code=$?
conclude postCreateCommand.sh "$code"
exit "$code"
