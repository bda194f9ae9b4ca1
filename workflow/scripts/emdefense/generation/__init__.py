"""Sampling responses from a model with an adapter."""
