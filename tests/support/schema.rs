//! The schema of a YAML file of the tree, generated from the type that reads it, so that editors
//! report what the tool would. It is kept in `infra/schemas`, and updated with `UPDATE_EXPECT=1
//! cargo test -p xtask -p image-mirror --lib schema`.

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;

/// In the dialect that editors know best.
#[track_caller]
pub fn kept<T: JsonSchema>(name: &str) {
    let schema = SchemaSettings::draft07().into_generator().into_root_schema_for::<T>();
    let text = serde_json::to_string_pretty(&schema).unwrap() + "\n";
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../infra/schemas").join(name);
    expect_test::expect_file![path].assert_eq(&text);
}
