"""The tables: one module each, whose docstring names its single writer."""
