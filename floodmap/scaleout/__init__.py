"""Work beyond one scene in one process: many frames as one product, and worker processes."""
