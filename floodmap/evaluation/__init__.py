"""How well a flood map agrees with a reference."""
