"""A simulated microscope: specimen, optics, stage, detectors, damage, faults, virtual time."""
