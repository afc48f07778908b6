"""Training one model in earnest: its configuration, the published recipes, the run directory."""
