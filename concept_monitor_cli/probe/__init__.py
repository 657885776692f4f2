"""Probing sets: the images a network is shown, decoded once, and their labels and masks."""
