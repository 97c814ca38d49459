"""Every private name of another library that the project touches: a module for each library.

Each name has its reason and a link. A test in ``tests/test_upstream.py`` fails when upstream no
longer needs it.
"""
