#!/usr/bin/env bash
# Shows whoever attaches how it is: the checklist, and what there is to open. A look: it
# never keeps an editor from attaching.
set -uo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/log.sh"
begin postAttachCommand.sh
logged cargo xtask checklist && logged cargo xtask open
exit 0
