"""From a config to a run folder, with Lightning. Imports models, data, evaluation and plot."""
