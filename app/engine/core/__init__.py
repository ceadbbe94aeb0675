"""Tasks and their units of work: records in, one transaction out."""
