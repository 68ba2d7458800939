"""The `floodmap` command: one module a command, installed as `floodmap_cli`."""
