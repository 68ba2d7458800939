"""Models: registry of the model files, loading, inference, and the networks."""
