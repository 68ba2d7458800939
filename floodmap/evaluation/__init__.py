"""Evaluation of flood maps against references: pixel counts, scores, polygons of false positives and negatives."""
