"""What the screens show: pure functions of journal, belief, desk and telemetry."""
