"""The service: REST API, job protocol and command line. Never imports torch."""
