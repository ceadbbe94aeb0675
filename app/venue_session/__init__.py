"""One task's talk with the venue: orders out once, reports in once."""
