"""Commands of floodmap, one module for each. A module is imported when its command runs."""
