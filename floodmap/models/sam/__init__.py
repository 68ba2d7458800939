"""The networks: Segment Anything, whole and small."""
