"""Reading of rasters as scenes: tiles of 8-bit pixels, with a reason code for every unobserved pixel."""
