"""Tables, figures and comparisons with printed values, made from finished sweeps; `load` and `table` are for notebooks."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analysis.notebook import load, table

__all__ = ["load", "table"]


def __getattr__(name: str) -> Any:
    """Imports pandas and MLflow only when a notebook asks for something: the commands start in no time without them."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from analysis import notebook

    return getattr(notebook, name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
