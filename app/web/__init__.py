"""The manners of every route: problems, request ids, pages, who is calling."""
