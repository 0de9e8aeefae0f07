"""Evaluation of cuts: recovery, refit, fidelities, and latency measurement."""
