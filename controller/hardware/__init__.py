"""The contract between lodestem and any microscope: values with units, promises, errors, time.

Light by design: standard library, numpy and pydantic only.  A vendor's PC needs nothing else.
"""
