"""Runs Captum's own tests that use NoiseTunnel, with ours in its place.

    python tests/integrations/run_captum_tests.py CHECKOUT [--captums-own] [pytest options]

CHECKOUT is a checkout of https://github.com/meta-pytorch/captum, whose folder ``tests`` is used;
what is tested is the Captum that is installed. ``--captums-own`` runs them on Captum's NoiseTunnel,
to compare. All of them pass but ``test_data_parallel``, which needs several GPUs and is left out.
"""

from __future__ import annotations

import os
import sys

FILES = (
    "test_common", "test_feature_ablation", "test_gradient_shap", "test_hook_removal",
    "test_input_x_gradient", "test_integrated_gradients_basic",
    "test_integrated_gradients_classification", "test_jit", "test_saliency", "test_targets",
)  # fmt: skip


def replace() -> None:
    """Puts our NoiseTunnel wherever a module of Captum has its own: in GradientShap, too."""
    import captum.attr
    from captum.attr._core import noise_tunnel

    from fwdgrad.integrations.captum_noise_tunnel import NoiseTunnel

    own = noise_tunnel.NoiseTunnel
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] == "captum" and getattr(module, "NoiseTunnel", None) is own:
            module.NoiseTunnel = NoiseTunnel
    assert captum.attr.NoiseTunnel is NoiseTunnel


def main(arguments: list[str]) -> int:
    import captum.attr  # noqa: F401  # the installed one, before the checkout is looked into
    import pytest

    checkout, *rest = arguments
    if "--captums-own" in rest:
        rest.remove("--captums-own")
    else:
        replace()
    os.chdir(checkout)
    options = ["-q", "-p", "no:cacheprovider", "--import-mode=append", "-o", "addopts="]
    return pytest.main([*options, *rest, *(f"tests/attr/{name}.py" for name in FILES)])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
