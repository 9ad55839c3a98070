"""RL with nested test coverage: recipe, TRL's GRPO, judging beside generation, resume."""
