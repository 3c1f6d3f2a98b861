"""4D-STEM data to phase images. Knows arrays and files, never instruments."""
