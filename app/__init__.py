"""The trading pipeline: one module a service, the engine, the pure domain and the command line."""
