#!/usr/bin/env bash
# Has the Rust toolchain, the crates and `cargo xtask` itself ahead, when the container is
# made or prebuilt.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/log.sh"
begin onCreateCommand.sh
ahead cargo build --locked
