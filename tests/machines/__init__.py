"""Workers on machines of their own: network namespaces, joined to the servers by a bridge."""
