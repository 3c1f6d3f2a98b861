"""Calibrations an operator can run and the loop can check: measure, store, load, complain."""
