module ameide.local/lab/mc

go 1.26

tool github.com/minio/mc

require github.com/minio/mc v0.0.0-20250813083541-7394ce0dd2a8
