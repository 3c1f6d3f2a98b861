"""Learned models and their training: images in, regions out. Knows arrays and files only."""
