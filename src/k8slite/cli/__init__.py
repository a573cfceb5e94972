"""Command line: typer commands that parse, call and print. No logic."""
