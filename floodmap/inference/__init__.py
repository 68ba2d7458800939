"""Inference: a scene and a model in, strips of codes (one uint8 per pixel) out."""
