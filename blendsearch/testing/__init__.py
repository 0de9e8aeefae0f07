"""Contract suites that a third-party criterion, optimizer, engine or method can run."""
