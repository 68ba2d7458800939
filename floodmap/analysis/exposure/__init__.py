"""Exposure: buildings, roads and people under water, by district, with a lower, a best and an upper figure."""
