"""Runs a method on a model and a data set: step, loop and their records."""
