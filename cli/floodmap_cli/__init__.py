"""Command line of floodmap: one module for each command; installed as `floodmap_cli`."""
