"""Command line of floodmap: one module for each command. This package is `floodmap_cli`; the command is `floodmap`."""
