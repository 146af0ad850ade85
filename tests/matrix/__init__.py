"""The same situations on every server and framework; docs/matrix.md is made from a run."""
