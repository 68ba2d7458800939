"""Flood masks of any origin, read on any grid."""
