"""Models: the registry of their files, loading, inference, and the networks."""
