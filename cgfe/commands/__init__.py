"""The subcommands of `cgfe`, one module each; `run(words)` gets the command line."""
