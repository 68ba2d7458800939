"""Analyses of results of floodmap and of other masks, without a model: changes between two dates."""
