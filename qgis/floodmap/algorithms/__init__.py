"""Algorithms of Processing. Each runs one command of the program."""

from __future__ import annotations

from .segment import SegmentFlood

ALGORITHMS = (SegmentFlood,)
