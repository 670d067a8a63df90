"""Training: one compiled program trains a population of runs."""
