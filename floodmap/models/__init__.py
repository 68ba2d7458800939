"""Models: which there are, how they are loaded and run."""
