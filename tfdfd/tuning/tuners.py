"""The ways to choose the next values, by name; known without KerasTuner."""

TUNERS = ("random", "bayesian", "hyperband", "grid")
