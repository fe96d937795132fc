"""Attacks on trained models, and how far they carry from one model to another: one module per kind of attack."""
