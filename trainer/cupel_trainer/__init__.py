"""The trainer's half of Cupel: checkpoints merged between and beyond two ends, and the frontier.

`merge` averages checkpoints, `evaluate` samples from them, has the samples judged by a Cupel
service, and shows what came out. RL under nested test coverage is not built yet.
"""
