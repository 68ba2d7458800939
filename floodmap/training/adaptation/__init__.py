"""Adaptation of a model to one scene by corrections that a person has drawn."""
