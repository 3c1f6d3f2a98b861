"""Faults outside the column, played where they happen: disk, link, process, eyes, people.

Each module wraps one part of a night and asks a `controller.hardware.faults.FaultSource` whether
its fault is due.  A real instrument's source says no to everything, and nothing below ``cli``
imports this package: what guards the specimen does not know that it is being tested.
"""
