"""From scores to a cut: clusters of criteria, their blend, and how many channels each group keeps. NumPy, no torch."""
