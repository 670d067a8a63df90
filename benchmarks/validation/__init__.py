"""Checks of the science: exact theory, the rule of the verdicts, equality with Keras."""
