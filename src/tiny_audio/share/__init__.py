"""Sharing what was trained: to the hub with a card, and to transformers without our code."""
