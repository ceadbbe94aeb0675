"""An independent checker: reads only the log and the venue's ledger, and says which invariants do not hold.

It shares nothing with the services but `models`: what it knows of topics, tables and rules is written down
here a second time, so that one mistake can't be made on both sides.
"""
