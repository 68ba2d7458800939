"""Evaluation of a flood map against a reference: pixel counts, scores, means with intervals, and error polygons."""
