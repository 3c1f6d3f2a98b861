"""Engines beside the default one, on the same forward model: for comparison and experiments.

The default engine finds the calibration; these begin from it, with another way to climb, another
likelihood, several probe modes or more priors, and hand back the same result.
"""
