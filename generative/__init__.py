"""Generative models, one file each, and the data that they learn from."""
