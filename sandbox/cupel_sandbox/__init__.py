"""Boxes: run one program under limits, and report the facts."""
