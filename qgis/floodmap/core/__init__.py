"""What needs no QGIS: command lines, the environment and the process of the program, and names of its files."""
