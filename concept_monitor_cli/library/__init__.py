"""For notebooks and training loops: what the command line does, with a network in memory for a checkpoint.

Everything public is reached as `concept_monitor_cli.NAME`, which imports a file of this folder when it is
first asked for.
"""
