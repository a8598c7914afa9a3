"""Experiment files, plans, scheduling on Ray Tune, Optuna searches and the MLflow record of a sweep."""
