"""Readers of corpora, and what they are turned into before training."""
