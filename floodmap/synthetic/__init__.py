"""Synthetic flood scenes with an exact reference, and floods painted on pictures of dry ground."""
