"""What the verbs share: flags, parts put together from a config, what a run leaves."""
