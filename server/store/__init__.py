"""Stored specs and results, and the index over them."""
