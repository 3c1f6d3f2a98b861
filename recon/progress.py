"""How much of a fit is done, where nobody knows how many passes it will take."""

EXPECTED_PART = 0.9
"""What is done when the expected passes are over."""


def part_done(passes: float, expected: float) -> float:
    """Part of a fit that is done after so many of the passes that were expected, in [0, 1).

    It grows with every pass, also with those beyond: the slices may be set free, or steps are
    long and take more.

    >>> part_done(8, 16), part_done(16, 16), part_done(32, 16)
    (0.45, 0.9, 0.95)
    """
    if passes <= expected:
        return EXPECTED_PART * max(passes, 0.0) / max(expected, 1.0)
    return 1.0 - (1.0 - EXPECTED_PART) * max(expected, 1.0) / passes
