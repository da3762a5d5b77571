//! The custom resource `SegmentCounter` v1alpha1: spec, status, conditions.
