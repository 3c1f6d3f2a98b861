"""The command line: parses, prints, and calls functions that a test can call."""
