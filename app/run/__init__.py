"""The whole pipeline as one service: started, watched, shown and judged at its end."""
