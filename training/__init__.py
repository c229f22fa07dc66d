"""How the bundled model was made. `python -m training.train` trains it, `python -m training.evaluate` measures it.

`scenes` draws the worlds that it learns from, `model` builds its parts, `optimizer` is what trains them; `measures`,
`photographs` and `bars` are what it is judged by; `examples` draws the package's example pictures. None of this is in
the wheel: the package carries the weights alone.
"""
