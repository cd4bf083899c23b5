"""TensorFlow's own optimizer kernels in the place of Keras' chain of operations.

Changes: one kernel updates a variable and its moments, instead of about a dozen operations for each
variable. Helps: where the optimizer takes a share of the step. May change: rounding; the formula is
the same. Needs: Adam, AdamW or SGD of Keras on its TensorFlow backend, dense gradients of float32.
Source: tf.raw_ops.ResourceApplyAdam, ResourceApplyKerasMomentum, ResourceApplyGradientDescent.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Callable, Mapping, Sequence

from ...agent.patches import Patches
from ...ideas import FUSED_OPTIMIZER as IDEA

if TYPE_CHECKING:
    from ...records import Diagnosis, Facts, Proposal

_KNOWN = ("Adam", "AdamW", "SGD")


def settings_to_try(facts: Facts, diagnosis: Diagnosis) -> Sequence[Proposal]:
    """The kernel of the optimizer that was seen, or why not."""
    from ...records import Proposal, Switch

    refusal = ""
    if facts.backend != "tensorflow":
        refusal = f"Keras' {facts.backend} backend fuses its optimizers by itself"
    elif facts.optimizer not in _KNOWN:
        refusal = f"{facts.optimizer or 'no optimizer'} has no kernel of TensorFlow's own"
    if refusal:
        return [Proposal(switch=None, reason=refusal)]
    switch = Switch(technique=IDEA.name, settings={}, numerics="rounding")
    return [Proposal(switch=switch, reason=f"TensorFlow has a kernel for {facts.optimizer}")]


def install(framework: Any, settings: Mapping[str, Any], patches: Patches) -> None:
    """Update each dense float32 variable by one kernel; anything else as Keras does."""
    tf = importlib.import_module("tensorflow")
    optimizers = framework.optimizers
    # AdamW makes its step through Adam's.
    for cls, update in ((optimizers.Adam, _adam), (optimizers.SGD, _sgd)):
        patches.replace(cls, "update_step", _by_one_kernel(tf, update, patches))


def _by_one_kernel(tf: Any, update: Callable[..., bool], patches: Patches) -> Any:
    def make(original: Any) -> Any:
        def update_step(self: Any, gradient: Any, variable: Any, learning_rate: Any) -> None:
            dense = isinstance(gradient, tf.Tensor) and isinstance(variable, tf.Variable)
            if (
                dense
                and variable.dtype == gradient.dtype == tf.float32
                and hasattr(variable, "handle")
                and update(tf, self, gradient, variable, tf.cast(learning_rate, tf.float32))
            ):
                patches.took_effect(IDEA.name, optimizer=type(self).__name__)
            else:
                original(self, gradient, variable, learning_rate)

        return update_step

    return make


def _adam(tf: Any, optimizer: Any, gradient: Any, variable: Any, learning_rate: Any) -> bool:
    """Adam's step by one kernel; gives whether there is one for these settings."""
    if optimizer.amsgrad:
        return False
    place = optimizer._get_variable_index(variable)
    done = optimizer.iterations  # a tensor, where gradients are accumulated
    step = tf.cast(getattr(done, "value", done) + 1, tf.float32)
    tf.raw_ops.ResourceApplyAdam(
        var=variable.handle,
        m=optimizer._momentums[place].value.handle,
        v=optimizer._velocities[place].value.handle,
        beta1_power=tf.pow(tf.constant(optimizer.beta_1, tf.float32), step),
        beta2_power=tf.pow(tf.constant(optimizer.beta_2, tf.float32), step),
        lr=learning_rate,
        beta1=optimizer.beta_1,
        beta2=optimizer.beta_2,
        epsilon=optimizer.epsilon,
        grad=gradient,
        use_locking=True,
    )
    return True


def _sgd(tf: Any, optimizer: Any, gradient: Any, variable: Any, learning_rate: Any) -> bool:
    """SGD's step by one kernel, with or without momentum; gives that there is one."""
    if not optimizer.momentum:
        tf.raw_ops.ResourceApplyGradientDescent(
            var=variable.handle, alpha=learning_rate, delta=gradient, use_locking=True
        )
        return True
    tf.raw_ops.ResourceApplyKerasMomentum(
        var=variable.handle,
        accum=optimizer.momentums[optimizer._get_variable_index(variable)].value.handle,
        lr=learning_rate,
        grad=gradient,
        momentum=optimizer.momentum,
        use_locking=True,
        use_nesterov=optimizer.nesterov,
    )
    return True
