"""Runs, advice, predictions, status API and page, command line."""
