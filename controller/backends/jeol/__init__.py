"""JEOL columns through PyJEM; never run on hardware."""
