"""The commands beside those of LightningCLI; and ``predict`` on loose pictures."""
