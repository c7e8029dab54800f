"""What the host knows of a device's sensors (characterization, calibration) and what follows for a measurement."""
