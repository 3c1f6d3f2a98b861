"""Columns behind instamatic's servers (JEOL, FEI), spoken to over their socket protocol."""
