"""From a scene and a model to strips of codes."""
