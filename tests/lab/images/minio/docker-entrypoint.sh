#!/bin/sh
set -eu

# `docker run minio server /data` means the server.
[ "${1:-}" = minio ] || set -- minio "$@"

exec "$@"
