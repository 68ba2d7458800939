"""Outlines of polygons that are kept, and changed where codes change, without tracing the whole scene again."""
