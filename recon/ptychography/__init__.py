"""Iterative multislice ptychography on counted electrons. Importing a module here loads PyTorch."""
