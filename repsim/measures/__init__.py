"""Measures of similarity, one file per family."""
