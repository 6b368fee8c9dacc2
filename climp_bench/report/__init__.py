"""Reports: tables and plots, made from results only."""
