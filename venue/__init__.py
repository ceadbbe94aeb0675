"""The simulated exchange: its own process and its own ledger, which no part of the pipeline can touch."""
