"""What can be wrong with the data or with a request, as types a caller can tell apart."""


class ReconError(Exception):
    """Base of everything that ``recon`` raises on purpose."""


class DataError(ReconError):
    """The data cannot be what they claim to be; nothing was reconstructed."""


class ScanFileError(DataError):
    """A native scan file is damaged, incomplete or not one of ours."""


class CalibrationError(ReconError):
    """A calibration could not be measured from these counts."""
