"""Merlin (Quantum Detectors, Medipix3): one TCP connection for commands, one for frames."""
