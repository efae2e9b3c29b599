#!/usr/bin/env bash
# What the scripts of the devcontainer share. Editors show little of what those print and
# hide how they ended: all of it is in this log, one part a script.
log="$HOME/.devcontainer-setup.log"

# Begins a script's part of the log.
begin() {
  cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." || exit
  printf '== %s\n' "$1" >>"$log"
}

# Runs a command whose lines go into the log too. Ends as the command does, whatever
# becomes of the log.
logged() {
  local code=0
  # shellcheck disable=SC2312 # PIPESTATUS has the command's
  "$@" 2>&1 | tee -a "$log" || code=${PIPESTATUS[0]}
  return "$code"
}

# Has something ahead, so that making the container takes less time later. A prebuild, which
# runs this, has nobody's account and meets the limits of registries: what cannot be had is
# said, and left for later.
ahead() {
  local code=0
  logged "$@" || code=$?
  if ((code)); then
    logged printf '⏳ %s ended with exit %s: left for postCreateCommand.sh\n' "$*" "$code"
  fi
}

# Says how the script ended, and what the log says of that: its last failure with evidence
# and remedy, or its last lines.
conclude() {
  local name=$1 code=$2 told
  ((code)) || return 0
  told=$(awk -v part="== $name" '
    $0 == part { lines = failure = ""; inside = 0; next }
    /^❌ [a-z-]+: / { failure = ""; inside = 1 }
    { lines = lines $0 "\n"; if (inside) failure = failure $0 "\n" }
    END { printf "%s", failure == "" ? lines : failure }' "$log" | tail -n 12) || true
  printf '\n%s failed with exit %s. %s says:\n\n%s\n\nAgain, when that is mended: .devcontainer/%s\n' \
    "$name" "$code" "$log" "$told" "$name"
}
