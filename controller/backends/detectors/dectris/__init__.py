"""DECTRIS detectors: SIMPLON over HTTP for control, ZeroMQ for frames (Stream V1 and V2)."""
