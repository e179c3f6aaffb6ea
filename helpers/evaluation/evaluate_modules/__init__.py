"""The course's scores as modules of the `evaluate` library; see metrics.load_metric."""
