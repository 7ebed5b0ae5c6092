"""The embedded stack: real servers and the service's processes, as children of one supervisor."""
