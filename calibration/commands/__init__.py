"""Subcommands that make or judge profiles, one file each."""
