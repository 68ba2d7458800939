"""The public functions: of scenes, and of models that are trained and compared."""
