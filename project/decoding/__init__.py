"""Image files: which files are images, and how one becomes pixels. Nothing here imports torch."""
