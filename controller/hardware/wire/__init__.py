"""The hardware contract over ZeroMQ: JSON headers, raw arrays beside them, no pickle."""
