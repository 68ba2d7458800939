"""Public functions: for scenes, and for models that are trained and compared on labelled pictures."""
