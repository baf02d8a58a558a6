"""Speed, measured: load clients and one module a question. Tests never depend on it."""
