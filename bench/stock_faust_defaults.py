"""Stock Faust as `bench.stock_faust` runs it, but with the linger, buffer, poll and commit it comes with."""

from bench.stock_faust import main

if __name__ == "__main__":
    main(tuned=False)
