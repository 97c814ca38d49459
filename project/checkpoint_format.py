"""The form of a checkpoint, which is checked before any part of it is used."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from project.console import readable
from project.errors import UserError

_SHOWN = (str, int, float, type(None))


def check_form(value: Any, form: Any, place: str, path: str | Path) -> None:
    """Check what a part of a checkpoint is made of.

    Args:
        value: The part.
        form: What it must be: a type, a function that says so (its name is what it must be), a
            tuple of alternatives, a list of the form of all items, or a dictionary of the forms
            of keys that it must have, and of all others under the type of its keys.
        place: Name of the part.
        path: The checkpoint.

    Raises:
        UserError: If it is something else.
    """
    for where, wrong in _misfits(value, form, place):
        raise UserError(f"{readable(path)} is damaged: {readable(where)} {readable(wrong)}")


def _misfits(value: Any, form: Any, place: str) -> Iterator[tuple[str, str]]:
    """Yield the places that don't fit, each with what is wrong there."""
    if isinstance(form, tuple):
        if all(any(_misfits(value, one, place)) for one in form):
            yield place, _not(" or ".join(map(_described, form)), value)
    elif isinstance(form, list):
        if not isinstance(value, list | tuple):
            yield place, _not(_described(form), value)
            return
        for number, item in enumerate(value):
            yield from _misfits(item, form[0], f"{place}.{number}")
    elif isinstance(form, dict):
        if not isinstance(value, Mapping):
            yield place, _not(_described(form), value)
            return
        for key in form:
            if isinstance(key, str) and key not in value:
                yield f"{place}.{key}", "is missing"
        kind = next((key for key in form if isinstance(key, type)), object)
        for key, item in value.items():
            if not isinstance(key, kind):
                yield place, _not(f"a mapping of {kind.__name__}", key)
            yield from _misfits(item, form.get(key, form.get(kind, object)), f"{place}.{key}")
    elif isinstance(form, type) or form is None:
        if not isinstance(value, form or type(None)):
            yield place, _not(_described(form), value)
    elif not form(value):
        yield place, _not(_described(form), value)


def _not(right: str, value: Any) -> str:
    shown = repr(value) if isinstance(value, _SHOWN) else type(value).__name__
    return f"must be {right}, not {shown if len(shown) < 60 else f'{shown[:60]} …'}"


def _described(form: Any) -> str:
    if isinstance(form, list | dict):
        return "a list" if isinstance(form, list) else "a mapping"
    return str(getattr(form, "__name__", form)).strip("_").replace("_", " ")


def a_count(value: Any) -> bool:
    """Whether a value counts something; no training has more of it than a float can tell apart."""
    return type(value) is int and 0 <= value < 2**53


def _a_size(value: Any) -> bool:
    return type(value) is int and 0 < value < 2**31


def a_number(value: Any) -> bool:
    """Whether a value is a number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _a_version(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"\d+(\.\d+)+[\w.+-]*", value) is not None


def _a_rate(value: Any) -> bool:
    return isinstance(value, Tensor) or a_number(value)


def _a_shape(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 3 and all(map(_a_size, value))


def _a_class(value: Any) -> bool:
    named = isinstance(value, Mapping) and isinstance(value.get("class_path"), str)
    return named and isinstance(value.get("init_args") or {}, Mapping)


def _names(value: Any) -> bool:
    is_list = isinstance(value, list | tuple) and len(value) > 0
    return is_list and all(isinstance(name, str) for name in value)


def _weights(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(key, str) and (isinstance(item, Tensor) or key.endswith("_extra_state"))
        for key, item in value.items()
    )


_COUNTED = {"ready": a_count, "completed": a_count}
_STARTED = {**_COUNTED, "started": a_count, "processed": a_count}
_ALL_COUNTED: dict[Any, Any] = {str: a_count, **_COUNTED}
_COUNTS: dict[Any, Any] = {"total": _ALL_COUNTED, "current": _ALL_COUNTED}
RESUMED: dict[str, Any] = {
    "fit_loop": {
        "epoch_loop.state_dict": {"_batches_that_stepped": a_count},
        "epoch_progress": {"total": _STARTED, "current": _STARTED},
        "epoch_loop.batch_progress": {
            "total": _STARTED,
            "current": _STARTED,
            "is_last_batch": bool,
        },
        "epoch_loop.scheduler_progress": _COUNTS,
        "epoch_loop.automatic_optimization.optim_progress": {
            "optimizer": {"step": _COUNTS, "zero_grad": _COUNTS}
        },
        "epoch_loop.val_loop.batch_progress": _COUNTS,
    }
}
"""What is in ``loops`` of a checkpoint that a training resumes."""

PARTS: dict[Any, Any] = {
    "epoch": a_count,
    "global_step": a_count,
    "pytorch-lightning_version": _a_version,
    "state_dict": _weights,
    "loops": {str: {str: {str: object}}},
    "callbacks": {str: {str: object}},
    "optimizer_states": [
        {"state": {int: {str: object}}, "param_groups": [{"params": [a_count], "lr": _a_rate}]}
    ],
    "lr_schedulers": [{str: object}],
    "hyper_parameters": {str: object},
    "configured": {
        "optimizer": str,
        "groups": [{"lr": _a_rate}],
        "scheduler": {str: object},
        "scheduler_class": (str, None),
    },
    "gradients": _weights,
    "train_metrics": {"loss_sum": Tensor, "confusion": Tensor},
    "validation": {str: object},
    "order": {
        "batch": _a_size,
        "images": _a_size,
        "steps_per_epoch": (_a_size, None),
        "limit_train_batches": a_number,
        str: (str, int),  # seed, and sampling, which old checkpoints lack
    },
    "compared": {str: {str: object}},
    "monitored": {str: a_number},
    "logged": {
        "rows": [a_count],
        "next": ({"step": a_count, "metrics": {str: a_number}}, None),
    },
}
"""What each part of a checkpoint is, where it has it."""

NEEDED = ("epoch", "global_step", "loops", "callbacks", "optimizer_states", "lr_schedulers")

HYPER_PARAMETERS: dict[str, Any] = {
    "num_classes": _a_size,
    "image_shape": _a_shape,
    "class_names": _names,
    "normalization": {"mean": [a_number], "std": [a_number]},
    "one_logit": bool,
    "network": (_a_class, str, None),
}
"""What each hyperparameter is, where a checkpoint has it."""
