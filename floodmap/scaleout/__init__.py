"""Work beyond a single scene on a single process: many frames as one product."""
