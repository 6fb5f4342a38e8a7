"""Boxes in a box: the way out of one, and what may come through it."""
