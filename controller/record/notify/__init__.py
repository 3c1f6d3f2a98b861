"""Telling people who are not there: rules, channels, and a post office that nothing waits for."""
