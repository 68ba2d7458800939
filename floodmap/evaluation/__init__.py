"""Evaluation of flood maps against references: pixel counts, scores, mean scores over scenes, and error polygons."""
