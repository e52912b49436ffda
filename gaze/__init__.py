"""Gaze: how consistently a classifier looks, as a number and as a training signal."""
