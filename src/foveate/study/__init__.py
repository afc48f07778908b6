"""The comparison: plan, trials, statistics, report."""
