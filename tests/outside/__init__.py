"""What the outside may do to a running pipeline: clients, operators, venues, releases, configurations."""
