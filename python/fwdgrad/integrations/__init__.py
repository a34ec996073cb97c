"""Other tools, one file each: what runs them on this library's maps, or this library as they do.

- ``fwdgrad.integrations.captum``: explanations in the manner of Captum's ``attribute``.
- ``fwdgrad.integrations.captum_noise_tunnel``: Captum's ``NoiseTunnel`` on our noise.
- ``fwdgrad.integrations.quantus``: metrics of Quantus on maps of this library.
- ``fwdgrad.integrations.ray``: datasets of Ray Data, and one input's run over actors of Ray.
- ``fwdgrad.integrations.shap``: explanations as SHAP's, which its plots draw.
- ``fwdgrad.integrations.xaitk``: regions as saliency generators of XAITK-Saliency, its plugins.

``captum_noise_tunnel`` needs the tool when it is imported, the others at most when they are called,
so nothing is imported here.
"""
