"""Analyses of finished flood maps: what is under water. No model is needed."""
