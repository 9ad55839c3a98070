"""Samples from checkpoints, has them judged, and shows the correctness-efficiency frontier."""
