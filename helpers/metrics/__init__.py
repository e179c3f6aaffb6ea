"""The course's scores as modules of the `evaluate` library; see scoring.load_metric."""
