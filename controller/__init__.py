"""Operates the microscope: plan, decision, safety, hardware, perception, record."""
