"""Correction of the results of a run: what a person changes by clicks, written into the results that are there."""
