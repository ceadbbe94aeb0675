"""The command line: what can be asked for, and the operators' commands."""
