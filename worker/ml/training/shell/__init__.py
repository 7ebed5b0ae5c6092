"""From a shell, with no service: options, folders and dataset.toml to a spec."""
