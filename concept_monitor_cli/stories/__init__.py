"""The stories of the commands that read a finished run: one file each, as `pipeline` is that of `dissect`."""
