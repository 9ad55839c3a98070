"""The experiment in miniature: a tiny model, RL under low and high coverage, merges, a report."""
