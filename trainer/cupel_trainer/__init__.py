"""The trainer's place: RL under nested test coverage, merging, evaluation. Not built yet."""
