"""SLURM: which share of the work is this task's, submitting a job array, and how it goes."""
