"""Drivers: each converts one vendor's units and signs once, and tells its quirks."""
