"""Averages checkpoints between and beyond their ends (arXiv 2605.28751), in one pass."""
