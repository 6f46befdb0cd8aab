"""The inspector: pages about runs, made from the store alone.

`app.make_app` is the whole of it as an ASGI application; `headrace ui` serves it. Views give JSON values, and
a page and its `.json` twin are made from the same ones. Nothing here changes anything. Pages work without
JavaScript; with it, `static/htmx.min.js` (htmx 4.0.1 as published, 0BSD) renews what has changed in place.
"""
