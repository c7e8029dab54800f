"""Runs side by side on one device: rows, methods, paired differences, the Pareto front."""
