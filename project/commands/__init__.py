"""What the command line can do beside fit, validate, test and predict."""
