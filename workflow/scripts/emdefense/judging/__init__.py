"""Scoring responses: one protocol, several judges."""
