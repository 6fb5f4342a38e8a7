"""Limits that sdbox keeps itself, by measuring."""
