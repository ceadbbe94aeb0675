"""The agents: one module a service. They move records between topics, tables and the pure domain."""
