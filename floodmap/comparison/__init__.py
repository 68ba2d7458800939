"""Models compared on labelled pictures."""
