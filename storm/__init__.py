"""Breaks a running pipeline in every way there is, and proves that nothing is lost."""
