"""Networks: Meta's Segment Anything (SAM), and `FloodSam`, a SAM with a small image encoder."""
