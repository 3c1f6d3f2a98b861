"""Thermo Fisher (FEI) columns through their scripting interface."""
