"""Corrections of a finished result by points: only the windows with points are computed again."""
