"""Algorithms of Processing. Each runs one command of the program."""

from __future__ import annotations

from .change import Change
from .evaluate import Evaluate
from .exposure import Exposure
from .install import InstallProgram
from .review import ApplyReview, ReviewPlaces
from .segment import SegmentFlood
from .vectorize import Vectorize

ALGORITHMS = (SegmentFlood, Change, Exposure, Evaluate, Vectorize, ReviewPlaces, ApplyReview, InstallProgram)
"""All algorithms, in the order of the work."""
