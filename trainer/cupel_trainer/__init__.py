"""Part of Cupel."""
