"""What admission decides, as pure functions."""
