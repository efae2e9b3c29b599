schema() { # database, folder of its schema
  temporal-sql-tool --database "$1" setup-schema --version 0.0
  temporal-sql-tool --database "$1" update-schema --schema-name "postgresql/v12/$2"
}
schema "$DEFAULT_DATABASE" temporal
schema "$VISIBILITY_DATABASE" visibility
