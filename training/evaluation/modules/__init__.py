"""Metrics of `training.evaluation.metrics` as folders that `evaluate.load` takes."""
