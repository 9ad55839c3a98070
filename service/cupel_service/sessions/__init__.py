"""Boxes kept for episodes: who has one, who waits on disk, and what runs in them."""
