"""A run directory: config, provenance, evaluations, checkpoints, and the checks that decide if a run may resume."""
