"""Many overlapping frames as one product."""
