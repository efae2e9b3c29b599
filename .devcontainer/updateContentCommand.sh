#!/usr/bin/env bash
# Has what the tree names ahead, when the container is made and each time that a prebuild
# takes new commits: the tool as it is now, its pinned tools, and, where Docker Engine is up
# and the registries answer, the cluster's registry with the images in it. The lab, which
# takes an hour to build, is nothing for a prebuild.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/log.sh"
begin updateContentCommand.sh
ahead cargo xtask tools
images() {
  cargo xtask --no-lab cluster prefetch && cargo xtask --no-lab mirror
}
ahead images
