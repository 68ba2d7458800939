"""Analyses of results. Nothing here needs torch."""
