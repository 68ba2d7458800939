"""Evaluation of a flood map against a reference: counts, scores, means with intervals, error polygons."""
