"""Comparison of models and prompts on labelled pictures: scores, statistics, tables and an HTML report."""
