"""What must survive a crash: the resolved config, provenance, every evaluation, one checkpoint per generation."""
