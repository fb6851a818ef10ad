"""HTTP: parse, call the pipeline, render."""
