"""Subcommands that need a server, one file each."""
