"""The command line: one file a command, parsing and printing only, heavy imports inside the functions."""
