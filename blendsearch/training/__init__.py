"""Recovery of pruned networks: refit, recalibration, fine-tuning, distillation."""
