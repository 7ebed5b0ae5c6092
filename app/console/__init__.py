"""The console: a studio for customers and a control room for operators, as pages at `/`.

A page is made of the answers that the API's own routes give, and what it changes it asks of the
API with the browser's session; so there is one set of rules, limits and errors.
"""
