"""What the commands assume about learning curves."""

STEEPEST = -0.5  # exponent of a learning curve that is believed
