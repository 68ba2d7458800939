"""Larger runs: many frames that become one product, and runs with worker processes."""
