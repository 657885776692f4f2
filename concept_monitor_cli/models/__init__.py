"""Networks: built from what a checkpoint says, with their preprocessing, layers and taps."""
