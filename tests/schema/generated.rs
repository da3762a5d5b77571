//! Files that are generated from the types, and how they are kept so: a test compares, and writes when it is run with `UPDATE=1`.

use std::{env, fs};

use segment_counter::crd::crd_yaml;

use crate::table::root;

/// A generated file and what must stand in it.
pub(crate) struct Generated {
    /// Path from the repository's root.
    pub(crate) path: &'static str,
    /// Its text.
    pub(crate) text: String,
}

/// Every file that the types decide.
pub(crate) fn files() -> Vec<Generated> {
    vec![
        Generated {
            path: "crds/segmentcounters.segmentcounter.io.yaml",
            text: crd_yaml().unwrap(),
        },
        Generated {
            path: "charts/segment-counter-crds/templates/segmentcounters.yaml",
            text: chart_template(),
        },
    ]
}

/// The definition as a template: what a user may add to its metadata stands in the values.
fn chart_template() -> String {
    let yaml = crd_yaml().unwrap();
    assert!(
        !yaml.contains("{{"),
        "helm would take a part of the definition for a template"
    );
    let (head, tail) = yaml
        .split_once("  name: segmentcounters.segmentcounter.io\n")
        .expect("the definition's name");
    format!(
        r#"{{{{- /* Generated from the types in src/crd; `make generated` writes it. */ -}}}}
{head}  name: segmentcounters.segmentcounter.io
  labels:
    {{{{- include "segment-counter-crds.labels" . | nindent 4 }}}}
  {{{{- with include "segment-counter-crds.annotations" . }}}}
  annotations:
    {{{{- . | nindent 4 }}}}
  {{{{- end }}}}
{tail}"#
    )
}

impl Generated {
    /// Compares with the file; with `UPDATE=1` writes it first.
    pub(crate) fn assert_committed(&self) {
        let file = root().join(self.path);
        if env::var_os("UPDATE").is_some_and(|update| update == "1") {
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(&file, &self.text).unwrap();
        }
        let committed =
            fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}; write it with UPDATE=1", self.path));
        assert!(
            committed == self.text,
            "{} is not what the types generate; write it with UPDATE=1",
            self.path
        );
    }
}
