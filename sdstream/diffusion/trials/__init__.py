"""Trials on a card of what may be the fastest or may not work there: when they are made, and what is remembered."""
