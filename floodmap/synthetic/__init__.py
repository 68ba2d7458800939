"""Synthetic flood scenes with an exact reference."""
