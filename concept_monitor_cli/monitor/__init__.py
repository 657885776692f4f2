"""What the tables say when read over epochs."""
